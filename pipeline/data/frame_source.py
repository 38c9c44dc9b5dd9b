"""The usable videos of a benchmark, and how frames are read by number: from a cache, or from the files themselves.

Shapes: T frames, H x W pixels, J distance maps of a video, L places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data import manifest
from pipeline.data.arrays import U8, Halves, Ints
from pipeline.data.frame_step import Step
from pipeline.data.video import VideoReader, open_video
from pipeline.errors import EverestError, InputError


@dataclass(frozen=True)
class VideoFile:
    """One video: its file and what the manifest knows of it.

    Attributes:
        labels: all its class numbers, or None in a set whose videos have one class at most.
        fps: average frames per second, 0 where nobody said.
        bytes: of the file, 0 where nobody said.
    """

    video_id: str
    path: Path
    frames: int
    height: int
    width: int
    sha256: str = ""
    label: int = -1
    split: str = "train"
    splits: str = "train"
    reader: str = "pyav"
    jumps: str = ""
    labels: tuple[int, ...] | None = None
    fps: float = 0.0
    bytes: int = 0

    def open(self) -> VideoReader:
        """The file, by the reader that ingest has proven for it.

        Raises:
            VideoError: it does not open.
        """
        return open_video(self.path, self.reader, self.frames, self.jumps)


def usable_videos(manifest_path: Path, raw: Path) -> list[VideoFile]:
    """The videos that a manifest lists as good, in its order.

    Args:
        raw: the folder that its paths are relative to.

    Raises:
        InputError: no such manifest.
    """
    columns = ["frames_decoded" if field.name == "frames" else field.name for field in fields(VideoFile)]
    if not manifest.has_several(manifest_path):
        columns.remove(manifest.LABELS)
    rows = manifest.load(manifest_path, columns=columns).to_pylist()
    for row in rows:
        row["path"], row["frames"] = raw / row["path"], row.pop("frames_decoded")
        if manifest.LABELS in row:
            row["labels"] = tuple(row["labels"])
    return [VideoFile(**row) for row in rows]


class ClipError(EverestError):
    """One video's frames cannot be had. `video_id` and `reason` say which and why."""

    def __init__(self, video_id: str, reason: str) -> None:
        super().__init__(f"video {video_id}: {reason}")
        self.video_id = video_id
        self.reason = reason


class FrameSource(ABC):
    """Videos by row, numbered from 0 in the manifest's order; reading is safe from several threads.

    Attributes:
        ids, splits: by row.
        labels: class numbers by row, -1 where there is none.
        label_sets: all class numbers by row in a set whose videos have several classes each; else None.
        lengths: frames of each video, of which every `grid`-th can be read.
        short_side: [pixels] larger frames are shrunk to it.
        rates: frames per second by row; None where nobody needs them, since frames are taken by number.
        cure: what to do where videos cannot be read.
        map_step: frame step of the distance maps (`pipeline.data.frame_step.Step.entry`), 0 where there are none.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[int] | Ints
    label_sets: Sequence[tuple[int, ...]] | None = None
    lengths: Sequence[int] | Ints
    grid: int = 1
    short_side: int
    cure: str = "put the files back or mend them."
    rates: Sequence[float] | None = None
    map_step: int | str = 0

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str | None = None) -> list[int]:
        """Rows of one split, in order."""
        return [row for row, name in enumerate(self.splits) if split is None or name == split]

    def split(self, row: int) -> str:
        return self.splits[row]

    def label(self, row: int) -> int:
        return int(self.labels[row])

    def num_frames(self, row: int) -> int:
        return int(self.lengths[row])

    def step_in(self, row: int, step: Step) -> int | float:
        """From one frame of a clip to the next in one video, as `pipeline.data.sampling` takes it."""
        return step.of(self.num_frames(row), 0.0 if step.seconds is None else self.rate(row))

    def rate(self, row: int) -> float:
        """A video's frames per second.

        Raises:
            InputError: they are not known.
        """
        if self.rates is None:
            raise InputError(
                "frames by time need the rates of the videos, which this cache does not hold. "
                "Cure: `everest preprocess` with today's params.yaml."
            )
        return float(self.rates[row])

    @abstractmethod
    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of a video's frames as they are read, in pixels."""

    @abstractmethod
    def fill(self, row: int, frame_indices: npt.ArrayLike, target_THWC: U8) -> None:
        """Write the frames of these numbers, in any order, into the top left of uint8 [T, H, W, 3].

        Raises:
            ClipError: they cannot be had; names the video and the reason.
            DamagedError: they are not what was written into the cache.
        """

    def frames(self, row: int, frame_indices: npt.ArrayLike) -> U8:
        """As :meth:`fill`, in memory of their own: uint8 RGB [T, h, w, 3]."""
        wanted = np.asarray(frame_indices, dtype=np.int64)
        pictures = np.empty((len(wanted), *self.size(row), 3), np.uint8)
        self.fill(row, wanted, pictures)
        return pictures

    def maps(self, row: int) -> Halves | None:
        """Distance maps [J, L] fp16 of a video, or None.

        Raises:
            DamagedError: they are not what was written into the cache.
        """
        return None
