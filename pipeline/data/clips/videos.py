"""Clips straight from the video files, without a cache: the slow, simple way, behind the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data import manifest
from pipeline.data.arrays import U8
from pipeline.data.cache.read import ClipError
from pipeline.data.video import VideoError, open_video
from pipeline.data.video.shrink import shrink, shrunk_size

COLUMNS = ["video_id", "path", "split", "label", "frames_decoded", "width", "height", "reader", "jumps"]


@dataclass(frozen=True)
class VideoFile:
    """One video: its file and what the manifest knows of it."""

    video_id: str
    path: Path
    frames: int
    height: int
    width: int
    label: int = -1
    split: str = "train"
    reader: str = "pyav"
    jumps: str = ""


class VideoSource:
    """Video files as a :class:`pipeline.data.clips.dataset.Source`; frames are decoded when asked for.

    Args:
        files: in the order of the rows.
        short_side: larger frames are shrunk to this short side in pixels.
    """

    grid = 1
    map_step = 0

    def __init__(self, files: Sequence[VideoFile], short_side: int) -> None:
        self.files = list(files)
        self.ids = [file.video_id for file in self.files]
        self.short_side = short_side

    @classmethod
    def open(cls, manifest_path: Path, raw: Path, short_side: int) -> VideoSource:
        """The usable videos of a manifest.

        Raises:
            InputError: no such manifest.
        """
        rows = manifest.load(manifest_path, columns=COLUMNS).to_pylist()
        return cls(
            [
                VideoFile(
                    row["video_id"],
                    raw / row["path"],
                    row["frames_decoded"],
                    row["height"],
                    row["width"],
                    row["label"],
                    row["split"],
                    row["reader"],
                    row["jumps"],
                )
                for row in rows
            ],
            short_side,
        )

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, split: str | None = None) -> list[int]:
        """Rows of one split, in order."""
        return [row for row, file in enumerate(self.files) if split is None or file.split == split]

    def num_frames(self, row: int) -> int:
        return self.files[row].frames

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) in pixels after shrinking."""
        return shrunk_size(self.files[row].height, self.files[row].width, self.short_side)

    def label(self, row: int) -> int:
        return self.files[row].label

    def split(self, row: int) -> str:
        return self.files[row].split

    def maps(self, row: int) -> npt.NDArray[np.float16] | None:
        """There are no stored maps without a cache."""
        return None

    def fill(self, row: int, frame_indices: Any, target_THWC: U8) -> None:
        """Write frames by number into the top left of uint8 [T, H, W, 3].

        Raises:
            ClipError: the file does not open or decode, or has another size than the manifest says.
        """
        file = self.files[row]
        wanted = np.asarray(frame_indices, dtype=np.int64)
        numbers, place = np.unique(wanted, return_inverse=True)
        try:
            with open_video(file.path, file.reader, file.frames, file.jumps) as video:
                # Shrunk one by one: all of a clip's frames at 4K would take 400 MB.
                pictures = [shrink(picture[None], self.short_side)[0] for picture in video.pick(numbers.tolist())]
        except VideoError as error:
            raise ClipError(file.video_id, f"{error.reason}: {error}") from None
        size = pictures[0].shape[:2]
        if size != self.size(row):
            raise ClipError(
                file.video_id,
                f"frames have size {list(size)}, the manifest says {list(self.size(row))}. "
                "Cure: run the download stage again.",
            )
        height, width = size
        for number, target in zip(place, target_THWC, strict=True):
            target[:height, :width] = pictures[number]
