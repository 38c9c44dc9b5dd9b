"""The generated benchmarks: clips of `draw.py` or `scene.py` as real H.264 files, the same for the same seed.

A video's content is a function of (task, seed, frames, size, scene, split, index) alone, and those that are fixed for a
benchmark name its folder: raising a count only adds files, and a changed seed never mixes with old ones.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.annotations.base import ListedVideo, Listing
from pipeline.data.sources import scene
from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.draw import MOTIONS, STATES, Frames, draw_motion, draw_state_change
from pipeline.data.video import write_video
from pipeline.layout import fingerprint
from pipeline.params import GeneratedSource
from pipeline.params.declared import versions
from pipeline.system.files import require_space
from pipeline.system.processes import worker_pool
from pipeline.system.progress import counter

SPLITS = ("train", "val", "test")
FRAMES_PER_SECOND = 12
#: Raised when a drawing changes, so that old files are not taken for new ones.
DRAWING_VERSION = versions()["drawing"]

#: Bytes of one pixel of one frame in the written H.264 files, rounded up; for the check of free space only.
BYTES_PER_PIXEL = 0.2

_CLASSES = {"motion": MOTIONS, "state_change": STATES}
_DRAW = {"motion": draw_motion, "state_change": draw_state_change}
_DRAW_SCENE = {"motion": scene.draw_motion, "state_change": scene.draw_state_change}


class Generated:
    """The source that draws its videos itself: no network, no licence."""

    def __init__(self, source: GeneratedSource) -> None:
        self._source = source

    def plan(self, raw: Path) -> list[PlannedFile]:
        size = int(self._source.frames * self._source.size**2 * BYTES_PER_PIXEL)
        return [PlannedFile(video.path, "generated", size, (raw / video.path).exists()) for video in plan(self._source)]

    def prepare(self, raw: Path) -> Listing:
        needed = sum(file.bytes or 0 for file in self.plan(raw) if not file.present)
        require_space(raw, needed, "writing the generated videos")
        videos = generate(self._source, raw)
        names = {video.label: video.label_name for video in videos}
        origin = f"generated:{self._source.task}:{self._source.seed}"
        listed = [
            ListedVideo(Path(v.path).with_suffix("").as_posix(), v.path, (v.split,), v.label, v.label_name, origin)
            for v in videos
        ]
        return Listing([names[label] for label in sorted(names)], listed)


@dataclass(frozen=True)
class GeneratedVideo:
    """One video to be: its path relative to the raw folder, and what is known of it."""

    path: str
    split: str
    index: int
    label: int
    label_name: str


def plan(source: GeneratedSource) -> list[GeneratedVideo]:
    """Every video of a generated benchmark; classes take turns, so each split is balanced."""
    names = _CLASSES[source.task]
    made = f"{source.frames}x{source.size}"
    if source.scene is not None:
        made += f"-{fingerprint(source.scene.model_dump())}"
    folder = f"{source.task}-{made}-seed{source.seed}-v{DRAWING_VERSION}"
    videos = []
    for split, count in zip(SPLITS, (source.train, source.val, source.test), strict=True):
        for index in range(count):
            label = index % len(names)
            path = f"{folder}/{split}/{names[label]}_{index:05d}.mp4"
            videos.append(GeneratedVideo(path, split, index, label, names[label]))
    return videos


def generate(source: GeneratedSource, out_dir: Path) -> list[GeneratedVideo]:
    """Write the videos that are not there yet under `out_dir` and return all of them.

    Each file appears under its name only when it is whole, so an interrupted call is continued by the next one.

    Args:
        source: what to draw.
        out_dir: the raw folder of the benchmark.
    """
    videos = plan(source)
    missing = [video for video in videos if not (out_dir / video.path).exists()]
    for folder in {(out_dir / video.path).parent for video in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    for _ in counter("drawing videos")(_write_all(source, out_dir, missing), len(missing)):
        pass
    return videos


def _write_all(source: GeneratedSource, out_dir: Path, videos: list[GeneratedVideo]) -> Iterator[None]:
    write = functools.partial(_write_one, source, out_dir)
    if len(videos) < 32:  # starting processes would take longer
        yield from map(write, videos)
        return
    with worker_pool(os.cpu_count()) as pool:
        yield from pool.map(write, videos, chunksize=16)


def _write_one(source: GeneratedSource, out_dir: Path, video: GeneratedVideo) -> None:
    write_video(out_dir / video.path, drawn(source, video), fps=FRAMES_PER_SECOND)


def drawn(source: GeneratedSource, video: GeneratedVideo) -> Frames:
    """The frames `[T,H,W,3]` uint8 of one of the planned videos."""
    rng = np.random.default_rng([source.seed, SPLITS.index(video.split), video.index])
    if source.scene is None:
        return _DRAW[source.task](rng, video.label, source.frames, source.size)
    return _DRAW_SCENE[source.task](rng, video.label, source.frames, source.size, source.scene)
