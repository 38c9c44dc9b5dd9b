"""Clips straight from the video files, without a cache: the slow, simple way, behind the same interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import U8
from pipeline.data.frame_source import ClipError, FrameSource, VideoFile
from pipeline.data.video import VideoError
from pipeline.data.video.shrink import shrink, shrunk_size


class VideoSource(FrameSource):
    """Video files; frames are decoded when asked for."""

    cure = "put the files back or mend them; `everest download` lists what is there now, and what is wrong with it."

    def __init__(self, files: Sequence[VideoFile], short_side: int) -> None:
        self.files = list(files)
        self.ids = [file.video_id for file in self.files]
        self.splits = [file.split for file in self.files]
        self.labels = [file.label for file in self.files]
        if any(file.labels is not None for file in self.files):
            self.label_sets = [file.labels or () for file in self.files]
        self.lengths = [file.frames for file in self.files]
        self.rates = [file.fps for file in self.files]
        self.short_side = short_side

    def size(self, row: int) -> tuple[int, int]:
        return shrunk_size(self.files[row].height, self.files[row].width, self.short_side)

    def fill(self, row: int, frame_indices: npt.ArrayLike, target_THWC: U8) -> None:
        file = self.files[row]
        numbers, place = np.unique(np.asarray(frame_indices, dtype=np.int64), return_inverse=True)
        try:
            with file.open() as video:
                if file.bytes and file.path.stat().st_size != file.bytes:
                    raise VideoError("wrong_hash", f"{file.path} is not the file that was downloaded")
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
