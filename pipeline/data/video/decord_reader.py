"""decord's reader, for files that PyAV crashes on: in sequence only, as its jumps give wrong pictures in many files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.video.reader import VideoError, VideoReader, first_line, picked

if TYPE_CHECKING:
    import decord


class DecordReader(VideoReader):
    def __init__(self, path: str) -> None:
        """Open a file.

        Args:
            path: absolute.

        Raises:
            VideoError: decord does not open it, or its first frame does not decode.
        """
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.reader = "decord"
        self.rotation = 0  # decord turns pictures and does not say by how much
        with _refusing("open it"):
            # One thread: files are spread over processes, and it bounds the memory.
            self._video: decord.VideoReader = decord.VideoReader(path, num_threads=1)
            self.num_frames = len(self._video)
            if not self.num_frames:
                raise VideoError("no_frames", f"{path}: decord finds no frame")
            self.fps = float(self._video.get_avg_fps())
        self.height, self.width = self._first().shape[:2]

    def all_frames(self) -> Iterator[U8]:
        # The next frame is each time the one after: `_first` leaves off behind frame 0.
        yield self._first()
        for number in range(1, self.num_frames):
            try:
                with _refusing("decode a frame"):
                    frame = np.asarray(_Borrowed(self._video.next()))
            except StopIteration:
                message = f"decord finds {number} of {self.num_frames} frames"
                raise VideoError("undecodable", message) from None
            yield frame

    def pick(self, wanted: Sequence[int]) -> Iterator[U8]:
        return picked(self.all_frames(), wanted)

    def close(self) -> None:
        self._video = None

    def _first(self) -> U8:
        # As a batch: it goes back to the start, and some widths (48) fail there only.
        return _batch(self._video, [0])[0]


class _Borrowed:
    """decord's own memory of a uint8 frame, for `np.asarray`: the array keeps this, and this keeps the frame."""

    def __init__(self, frame: decord.ndarray.NDArray) -> None:
        held = frame.handle.contents
        self._frame = frame
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": frame.shape,  # without gaps between rows, as a batch copies it
            "data": (held.data + held.byte_offset, True),  # read-only
        }


def plain_frames(path: Path, indices: Sequence[int]) -> U8:
    """Frames as one reads them without this package: open with decord, take a batch. For benchmarks.

    Raises:
        VideoError: decord does not open it or does not decode a frame.
    """
    import decord

    with _refusing("decode a frame"):
        video = decord.VideoReader(str(path), num_threads=1)
    return _batch(video, indices)


def _batch(video: decord.VideoReader, indices: Sequence[int]) -> U8:
    with _refusing("decode a frame"):
        frames: U8 = video.get_batch(list(indices)).asnumpy()
    return frames


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns decord's errors into a video's."""
    import decord

    try:
        yield
    except (decord.DECORDError, IndexError, RuntimeError, UnicodeEncodeError) as error:
        raise VideoError("undecodable", f"decord cannot {what}: {first_line(error)}") from None
