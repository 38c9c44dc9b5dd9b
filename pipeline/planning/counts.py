"""How many videos a benchmark has, and where that is known from: never another benchmark's numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.data import manifest
from pipeline.errors import InputError, parted
from pipeline.params import FolderSource, OfficialSource, Params
from pipeline.params.benchmarks import PUBLISHED

#: Beyond any collection: a slip of the pen.
MOST_VIDEOS, MOST_FRAMES = 1_000_000_000, 10_000_000
_GIVEN = re.compile(r"(?P<name>[^=]+)=(?P<videos>[1-9]\d*)(?:x(?P<frames>[1-9]\d*))?")


@dataclass(frozen=True)
class Counts:
    """Videos of a benchmark; None is unknown.

    Attributes:
        train: training videos.
        total: videos of all splits.
        frames: mean frames of a video.
        origin: where the numbers are from, or why there are none.
        classes: labelled training videos of each class, where known.
        corpus: training videos that pre-training keeps (no copy of another, none of a held-out one), where known.
    """

    train: int | None
    total: int | None
    frames: float | None
    origin: str
    classes: tuple[int, ...] | None = None
    corpus: int | None = None

    def pretraining(self) -> int | None:
        """Videos that an epoch of pre-training draws from."""
        return self.train if self.corpus is None else self.corpus

    def labelled(self, fraction: float) -> int | None:
        """Videos that an epoch of fine-tuning draws from, by class as `finetune.label_fraction` takes them."""
        if self.classes is not None:
            return sum(max(1, round(fraction * count)) if fraction < 1 else count for count in self.classes)
        return None if self.train is None else max(1, round(fraction * self.train))


def given(texts: Iterable[str], params: Params) -> dict[str, Counts]:
    """Counts that a user gives: `own=12000` training videos, `own=12000x250` of 250 frames.

    Raises:
        InputError: another form, or no such benchmark.
    """
    counts = {}
    for text in texts:
        match = _GIVEN.fullmatch(text)
        if match is None:
            raise InputError(f"videos = {text!r}, expected NAME=VIDEOS or NAME=VIDEOSxFRAMES. Cure: own=12000x250.")
        params.benchmark(match["name"])
        videos, frames = int(match["videos"]), int(match["frames"]) if match["frames"] else None
        for number, most, name in ((videos, MOST_VIDEOS, "videos"), (frames, MOST_FRAMES, "frames of a video")):
            if number is not None and number > most:
                raise InputError(f"videos = {text!r}: at most {most:,} {name} can be planned. Cure: own=12000x250.")
        counts[match["name"]] = Counts(videos, videos, frames, "as given, all of them for training")
    return counts


def counts_of(params: Params, benchmark: str, known: Mapping[str, Counts] | None = None) -> Counts:
    """What is known of a benchmark's videos, from the first source that knows them.

    The sources: what is given, what the parameters draw, the manifest, the folder or table that they name, the
    publisher.
    """
    if known and benchmark in known:
        return known[benchmark]
    data = params.benchmark(benchmark).data
    source = data.source
    if source.kind == "generated":
        total = source.train + source.val + source.test
        return Counts(source.train, total, source.frames, "as params.yaml has them drawn")
    path = layout.manifest_dir(benchmark) / "manifest.parquet"
    if path.exists():
        return _of_manifest(manifest.load(path, ["split", "label", "sha256", "frames_decoded"]).to_pylist(), str(path))
    if isinstance(source, FolderSource):
        return _of_listing(source, params)
    if data.dataset in PUBLISHED:
        return _published(data.dataset, data.split, source)
    return Counts(None, None, None, f"no manifest of {benchmark} yet, and nobody publishes counts of {data.dataset}")


def _of_manifest(rows: list[dict[str, Any]], path: str) -> Counts:
    train = [row for row in rows if row["split"] == "train"]
    held_out = {row["sha256"] for row in rows if row["split"] in ("val", "test")}
    frames = sum(row["frames_decoded"] or 0 for row in rows) / len(rows) if rows else None
    classes = Counter(row["label"] for row in train if row["label"] >= 0)
    corpus = {row["sha256"] for row in train} - held_out
    return Counts(len(train), len(rows), frames, path, tuple(classes.values()), len(corpus))


def _of_listing(source: FolderSource, params: Params) -> Counts:
    from pipeline.data.sources.folder import folder_of, listing_of

    try:
        videos = listing_of(source).videos
    except InputError as error:
        return Counts(None, None, None, f"{parted(error)[0]}.")
    train = [video for video in videos if "train" in video.splits]
    classes = Counter(video.label for video in train if video.label >= 0)
    measured = _measured_frames(folder_of(source), [video.path for video in videos], params)
    known = "their frames were measured before" if measured else "their frames are known after ingest"
    origin = f"the files below {source.path}; {known}"
    return Counts(len(train), len(videos), measured, origin, tuple(classes.values()))


def _measured_frames(folder: Path, paths: Sequence[str], params: Params) -> float | None:
    """Mean frames of a video, where all were measured (`everest init`, `audit` and `ingest` note it beside them)."""
    from pipeline.data.ingest.ingest import remembered
    from pipeline.data.ingest.process import Limits

    memory = remembered(folder, Limits.of(params.ingest))
    frames = [known.frames_decoded for path in paths if (known := memory.recall(path)) is not None]
    return sum(frames) / len(frames) if frames and len(frames) == len(paths) else None


def _published(dataset: str, split: int, source: OfficialSource) -> Counts:
    published = PUBLISHED[dataset]
    train, total, frames = published.train.get(split, published.train[1]), published.videos, published.frames
    if source.limit is not None and source.limit < total:
        share = round(train * source.limit / total)
        return Counts(share, source.limit, frames, f"source.limit, training's share as published for {dataset}")
    return Counts(train, total, frames, f"as published for {dataset}")
