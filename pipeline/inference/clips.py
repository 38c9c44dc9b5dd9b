"""Clips of videos to be embedded: of files that nobody has verified, or of a benchmark of params.yaml.

Shapes: G clips of a video, T frames, s the side of the square that is cut out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import layout
from pipeline.data.arrays import U8, Ints
from pipeline.data.frame_step import Step
from pipeline.data.sampling import view_clips
from pipeline.errors import InputError
from pipeline.evaluation.views import video_views

if TYPE_CHECKING:
    from pipeline.data.ingest.isolated import IsolatedFrames
    from pipeline.data.ingest.reading import Accepted
    from pipeline.inference.features import ClipSource


@dataclass(frozen=True)
class ClipRule:
    """How clips are cut from a video: the square in the middle of each frame.

    Attributes:
        frames, step: of a clip, and from one to the next.
        clips: evenly over the video's length.
        grid: clips start on multiples of this frame number.
        short_side: [pixels] larger frames are shrunk to it first, as the cache's were.
    """

    frames: int
    step: Step
    clips: int
    grid: int = 1
    short_side: int | None = None

    def numbers(self, num_frames: int, fps: float) -> Ints:
        """Frame numbers [G, T] of a video's clips."""
        return view_clips(num_frames, self.frames, self.step.of(num_frames, fps), self.clips, self.grid)


@dataclass(frozen=True)
class Clips:
    """A video's clips, uint8 [G, T, s, s, 3], with their frame numbers; `fps` 0 where unknown."""

    pixels_GTHWC: U8
    numbers_GT: Ints
    fps: float


@dataclass(frozen=True)
class Videos:
    """Videos to be embedded, by number.

    Attributes:
        names: paths, or ids in a benchmark.
        labels, splits: "" where there is none.
        contents: what tells that a video has not changed.
        read: number -> clips; an EverestError says why there are none.
        source: of a benchmark's frames.
    """

    names: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    contents: Sequence[str]
    read: Callable[[int], Clips]
    source: ClipSource | None = None


def is_benchmark(names: Sequence[str]) -> bool:
    """Whether a user names a benchmark of params.yaml, rather than a file or folder of that name."""
    from pipeline.params import load_params
    from pipeline.recipes import PARAMS

    if len(names) != 1 or Path(names[0]).exists() or not PARAMS.exists():
        return False
    return names[0] in load_params(PARAMS).benchmarks


def called(names: Sequence[str]) -> str:
    """A short name for files and folders that a user names: the same for the same words, another one for others."""
    first = Path(names[0])
    stem = re.sub(r"[^A-Za-z0-9]+", "-", first.resolve().name if first.is_dir() else first.stem).strip("-")[:40]
    return "-".join(filter(None, (stem, layout.fingerprint(list(names))[:6])))


@contextmanager
def of_files(names: Sequence[str], rule: ClipRule) -> Iterator[Videos]:
    """The videos of files and folders, read under the limits and rules of ingest.

    What ingest or an audit has noted in a folder is not measured again: of such a video only the clips are decoded.
    """
    from pipeline.data.ingest.isolated import IsolatedFrames
    from pipeline.data.video.listing import find_videos

    files = find_videos(names)
    with IsolatedFrames.by_params(1, accepted_before(names, files)) as reader:
        yield Videos(
            names=[str(file) for file in files],
            labels=[""] * len(files),
            splits=[""] * len(files),
            contents=[content_of(file) for file in files],
            read=lambda number: read_clips(reader, files[number], rule),
        )


def accepted_before(names: Sequence[str], files: Sequence[Path]) -> dict[Path, Accepted]:
    """What ingest has noted of unchanged files below the named folders, where it accepts them."""
    from pipeline.data.ingest.ingest import remembered
    from pipeline.data.ingest.isolated import ingest_params
    from pipeline.data.ingest.process import Limits
    from pipeline.data.ingest.reading import Accepted
    from pipeline.data.ingest.verdicts import verdict

    rules = ingest_params()
    limits = Limits.of(rules)
    accepted: dict[Path, Accepted] = {}
    for folder in {Path(name) for name in names if Path(name).is_dir()}:
        memory = remembered(folder, limits)
        for file in (one for one in files if one.is_relative_to(folder)):
            measured = memory.recall(str(file.relative_to(folder)))
            if measured is not None and measured.reader == "pyav" and not verdict(measured, rules):
                accepted[file] = Accepted.of(measured)
    return accepted


@contextmanager
def of_benchmark(name: str, rule: ClipRule) -> Iterator[Videos]:
    """The usable videos of a benchmark, from its cache or its files as params.yaml says.

    Raises:
        InputError: it was not downloaded or not preprocessed, or for models of frames of another size.
    """
    from pipeline.data import manifest
    from pipeline.data.clips.dataset import open_source
    from pipeline.params import load_params

    params = load_params()
    columns = ["video_id", "split", "label_name", "sha256", "fps"]
    rows = manifest.load(layout.manifest_dir(name) / "manifest.parquet", columns).to_pylist()
    source = open_source(params, name)
    if rule.short_side not in (None, source.short_side):
        raise InputError(
            f"model.json: short_side = {rule.short_side}, expected {source.short_side} of the {params.clip.source} of "
            f"{name}. Cure: preprocess.short_side = {rule.short_side} in params.yaml and `everest preprocess {name}`, "
            "or another model."
        )
    place = {video: row for row, video in enumerate(source.ids)}
    rows = [row for row in rows if row["video_id"] in place]

    def read(number: int) -> Clips:
        row = place[rows[number]["video_id"]]
        step = rule.step.of(source.num_frames(row), rows[number]["fps"])
        numbers_GT = view_clips(source.num_frames(row), rule.frames, step, rule.clips, source.grid)
        pixels = video_views(
            lambda numbers: source.frames(row, numbers),
            source.num_frames(row),
            frames=rule.frames,
            step=step,
            segments=rule.clips,
            crops=1,
            grid=source.grid,
        )
        return Clips(pixels, numbers_GT, rows[number]["fps"])

    def column(name: str) -> list[str]:
        return [row[name] or "" for row in rows]

    about: ClipSource = {"kept_in": params.clip.source, "grid": source.grid, "short_side": source.short_side}
    yield Videos(column("video_id"), column("label_name"), column("split"), column("sha256"), read, about)


def read_clips(reader: IsolatedFrames, file: Path, rule: ClipRule) -> Clips:
    """The clips of one file.

    Raises:
        VideoError: it cannot be read, or ingest would not accept it.
    """
    video, pictures = reader.frames(
        file, lambda listed: np.unique(rule.numbers(listed.frames, listed.fps)).tolist(), rule.short_side
    )
    pixels = video_views(
        lambda _: pictures,
        video.frames,
        frames=rule.frames,
        step=rule.step.of(video.frames, video.fps),
        segments=rule.clips,
        crops=1,
        grid=rule.grid,
    )
    return Clips(pixels, rule.numbers(video.frames, video.fps), video.fps)


def content_of(file: Path) -> str:
    """Size and modification time of a file; "" of one that cannot be asked."""
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
