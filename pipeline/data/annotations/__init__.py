"""What the publishers say about their videos: one parser for each benchmark, and one for your own."""

import importlib
from pathlib import Path
from typing import Any

from pipeline.data.annotations.base import Annotated, Annotations
from pipeline.errors import InputError

__all__ = ["PUBLISHED", "Annotated", "Annotations", "annotations", "read"]

BENCHMARKS = ("ucf101", "hmdb51", "k400", "ssv2", "oscc")

#: Published counts: {benchmark: {split number: {role: videos}}}; compared and reported, never enforced.
PUBLISHED: dict[str, dict[str, dict[str, int]]] = {
    "ucf101": {
        "1": {"train": 9537, "test": 3783},
        "2": {"train": 9586, "test": 3734},
        "3": {"train": 9624, "test": 3696},
    },
    "hmdb51": {split: {"train": 3570, "test": 1530, "unused": 1666} for split in ("1", "2", "3")},
    "k400": {"1": {"train": 246_534, "val": 19_906, "test": 39_805}},
}


def read(benchmark: str, root: Path) -> Annotations:
    """Parse a benchmark's annotation files below `root`.

    Raises:
        InputError: unknown benchmark, or files that are missing or malformed.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"no annotations are known for {benchmark!r}. Cure: one of {', '.join(BENCHMARKS)}, folder.")
    found: Annotations = importlib.import_module(f"pipeline.data.annotations.{benchmark}").read(root)
    return found


def annotations(benchmark: str, root: Path) -> dict[str, Any]:
    """`everest annotations BENCH --root DIR`: counts for each split, classes and problems, without any video.

    Args:
        benchmark: ucf101, hmdb51, k400, ssv2, oscc, or "folder" for your own videos.
        root: folder of the annotation files; of your own videos their folder (one for each class) or their table.
    """
    if benchmark == "folder":
        from pipeline.data.annotations.own import from_folders, from_table

        own = from_table(root, root.parent) if root.is_file() else from_folders(root)
        videos = [Annotated(v.video_id, v.path, v.label, v.label_name, v.splits) for v in own.videos]
        found = Annotations(own.classes, videos, own.problems)
    else:
        found = read(benchmark, root)
    counts = found.counts()
    published = PUBLISHED.get(benchmark)
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "classes": len(found.classes),
        "videos": len(found.videos),
        "without_label": sum(video.label < 0 for video in found.videos),
        "splits": counts,
        "published": published,
        "as_published": None
        if published is None
        else counts == {s: dict(sorted(c.items())) for s, c in published.items()},
        "notes": found.notes,
        "problems": found.problems,
        "class_names": found.classes,
    }
    return result
