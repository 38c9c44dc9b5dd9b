"""What every reader of a video promises, and the error that all of them raise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.frame_step import ticks
from pipeline.errors import EverestError

ReaderName = Literal["pyav", "decord"]
Picture = TypeVar("Picture")


class VideoError(EverestError):
    """A video that cannot be read. `reason` is a code of `pipeline.data.ingest.verdicts`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Timed(NamedTuple):
    """A frame of a pass: its number, its time in seconds from the first one, and its picture where it was asked for."""

    number: int
    seconds: float
    picture: U8 | None


class VideoReader(ABC):
    """An open video. Use as a context manager, or let it go out of scope.

    Frame n is the n-th picture of one sequential pass over the best video stream, in order of presentation.

    Attributes:
        reader: "pyav" or "decord".
        num_frames: pictures of that pass: as the manifest says, else counted by a pass.
        fps: average frames per second, 0 where nothing tells.
        width, height: in pixels, as shown.
        rotation: degrees, counter-clockwise, that were applied: 0, 90, 180 or 270.
    """

    reader: ReaderName
    num_frames: int
    fps: float
    width: int
    height: int
    rotation: int

    @abstractmethod
    def all_frames(self) -> Iterator[U8]:
        """Every frame in order, uint8 RGB [H, W, 3], perhaps read-only, in one pass; read nothing else meanwhile."""

    @abstractmethod
    def pick(self, wanted: Sequence[int]) -> Iterator[U8]:
        """The frames of these ascending numbers, uint8 RGB [H, W, 3], in one pass; no other frame becomes RGB.

        Raises:
            VideoError: a frame does not decode, or the video ends before it.
        """

    def every(self, step: int | float) -> Iterator[Timed]:
        """Every frame's time in one pass, with the picture of each `step`-th; read nothing else meanwhile.

        Args:
            step: a float takes the frames nearest to its multiples.

        Raises:
            VideoError: a frame does not decode.
        """
        rate = self.fps or 25.0
        for number, picture in enumerate(self.all_frames()):
            yield Timed(number, number / rate, picture if ticks(number, step) else None)

    def frames(self, indices: Sequence[int]) -> U8:
        """uint8 RGB [len(indices), H, W, 3]; indices in any order, repeats allowed.

        Raises:
            VideoError: a frame does not decode, or an index is outside the file.
        """
        wanted = [int(index) for index in indices]
        if not wanted:
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        if min(wanted) < 0:
            raise missing_frame(min(wanted))
        numbers = sorted(set(wanted))
        rows = {number: row for row, number in enumerate(numbers)}
        pictures: U8 | None = None
        for row, picture in enumerate(self.pick(numbers)):
            if pictures is None:
                pictures = np.empty((len(numbers), *picture.shape), np.uint8)
            pictures[row] = picture
        assert pictures is not None
        return pictures if wanted == numbers else pictures[[rows[number] for number in wanted]]

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def picked(pictures: Iterator[Picture], wanted: Sequence[int]) -> Iterator[Picture]:
    """Those of a pass's pictures that have these ascending numbers; the pass ends with the last of them.

    Raises:
        VideoError: the pass ends before.
    """
    waiting = iter(wanted)
    upcoming = next(waiting, None)
    if upcoming is None:
        return
    for number, picture in enumerate(pictures):
        if number == upcoming:
            yield picture
            upcoming = next(waiting, None)
            if upcoming is None:
                return
    raise missing_frame(upcoming)


def missing_frame(number: int) -> VideoError:
    """The error for a frame that the video does not have."""
    return VideoError(
        "declared_more_than_decoded",
        f"frame {number} was asked for, the video does not hold it. "
        "Cure: run the download stage again, so that the manifest records its true length.",
    )


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    # FFmpeg's number and the file's name tell a reader nothing that does not stand beside it.
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
