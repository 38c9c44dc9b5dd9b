"""Every way in which the product reads frames, held against one plain sequential pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from video_matrix import Kind, reference

from pipeline.data.cache.build import FrameRule, MapRule, Video, plan
from pipeline.data.cache.publish import build, publish
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import Source, read_frames
from pipeline.data.clips.videos import VideoFile, VideoSource
from pipeline.data.ingest.ingest import verdict
from pipeline.data.ingest.measure import measure
from pipeline.data.video import open_video
from pipeline.params import IngestParams

STEP = 4


class Matrix:
    """Files of some kinds: what ingest says of each, and the pictures that each must give.

    Attributes:
        refused: kind -> ingest's reason, where that is another one than expected.
        pictures: kind -> every picture of a sequential pass, for the usable ones.
    """

    def __init__(self, folder: Path, kinds: dict[str, Kind], limits: IngestParams) -> None:
        self.folder = folder
        self.files: dict[str, VideoFile] = {}
        self.pictures: dict[str, list[np.ndarray]] = {}
        self.refused: dict[str, str] = {}
        self.hashes: dict[str, str] = {}
        for place, (name, kind) in enumerate(kinds.items()):
            path = folder / f"{place:03d}{kind.suffix}"
            kind.write(path)
            found = measure(path)
            reason = verdict(found, limits)
            if reason != kind.reason:
                self.refused[name] = f"{reason}: {found.message}"
            if reason:
                continue
            self.pictures[name] = reference(path, kind.shown)
            self.hashes[name] = found.sha256
            self.files[name] = VideoFile(
                name, path, found.frames_decoded, found.height, found.width, reader=found.reader, jumps=found.jumps
            )

    @property
    def in_sequence(self) -> list[str]:
        """Kinds of which nothing was proven."""
        return [name for name, file in self.files.items() if not file.jumps]

    def wrong_by_reader(self) -> dict[str, int]:
        """Frames of the reader itself, wanted in every pattern, that are not those of the pass: kind -> how many."""
        wrong = {}
        for name, file in self.files.items():
            truth = self.pictures[name]
            wrong[name] = abs(len(truth) - file.frames)
            for wanted in patterns(len(truth)):
                with open_video(file.path, file.reader, file.frames, file.jumps) as video:
                    wrong[name] += _differ(video.frames(wanted), truth, wanted)
            with open_video(file.path) as video:  # as whoever knows nothing of the file
                wrong[name] += _differ(list(video.all_frames()), truth, range(len(truth)))
                wrong[name] += video.num_frames != len(truth)
        return wrong

    def wrong_by_loader(self) -> dict[str, int]:
        """The same for clips read straight from the video files."""
        return self._wrong_in(VideoSource(list(self.files.values()), 1024))

    def wrong_by_cache(self, keep_every: int) -> dict[str, int]:
        """The same for a raw cache that keeps every so many frames."""
        scratch = self.folder / f"cache-{keep_every}"
        videos = [
            Video(
                name, str(file.path), self.hashes[name], file.frames, file.height, file.width, file.reader, file.jumps
            )
            for name, file in self.files.items()
        ]
        units = plan(videos, FrameRule("raw", 90, 1024, keep_every), MapRule("pixels", STEP, 64, 1024), 64 << 20)
        build(units, scratch / "store", Path("/"), 1)
        table = {
            "video_id": list(self.files),
            "split": ["train"] * len(videos),
            "splits": ["train"] * len(videos),
            "label": [0] * len(videos),
            "sha256": list(self.hashes.values()),
            "frames_decoded": [file.frames for file in self.files.values()],
        }
        publish("matrix", units, pa.table(table), scratch / "store", scratch / "cache")
        return self._wrong_in(Cache.open(scratch / "cache"))

    def _wrong_in(self, source: Source) -> dict[str, int]:
        wrong = dict.fromkeys(self.files, 0)
        for row, name in enumerate(source.ids):
            truth = self.pictures[name]
            for wanted in patterns(len(truth), source.grid):
                wrong[name] += _differ(read_frames(source, row, wanted), truth, wanted)
        return wrong | {name: 1 for name in self.files if name not in source.ids}


def patterns(count: int, grid: int = 1) -> list[list[int]]:
    """Numbers of frames as the product asks for them: all, every so many, clips that begin anywhere, single ones."""
    wanted = [list(range(0, count, step)) for step in (1, 2, STEP, 7)]
    wanted += [list(range(start, count, STEP)) for start in (9, count // 2, count - 13)]
    wanted += [list(range(start, start + 16)) for start in (5, count // 3, count - 16)]
    wanted += [[count - 1], [count // 2], [13, 13, 29, 29]]
    return [kept for numbers in wanted if (kept := [n for n in numbers if n % grid == 0 and n < count])]


def _differ(pictures: Any, truth: Sequence[np.ndarray], wanted: Sequence[int]) -> int:
    found = list(pictures)
    same = sum(np.array_equal(picture, truth[number]) for picture, number in zip(found, wanted, strict=False))
    return len(wanted) - same + abs(len(found) - len(wanted))
