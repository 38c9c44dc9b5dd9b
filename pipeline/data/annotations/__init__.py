"""What the publishers say about their videos: one parser for each benchmark, and one for your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from pipeline.data.annotations.base import ListedVideo, Listing, understood
from pipeline.errors import InputError
from pipeline.params.benchmarks import PUBLISHED

__all__ = ["ListedVideo", "Listing", "Summary", "read", "summary"]


def read(benchmark: str, root: Path) -> Listing:
    """Parse a benchmark's annotation files below `root`.

    Raises:
        InputError: unknown benchmark, or files that are missing or malformed.
    """
    if benchmark not in PUBLISHED:
        raise InputError(f"no annotations are known for {benchmark!r}. Cure: one of {', '.join(PUBLISHED)}, folder.")
    parse: Callable[[Path], Listing] = importlib.import_module(f"pipeline.data.annotations.{benchmark}").read
    return understood(parse)(root)


class Summary(TypedDict):
    """What `everest annotations` prints. `as_published` is None where no counts are published."""

    benchmark: str
    classes: int
    videos: int
    without_label: int
    splits: dict[str, dict[str, int]]
    published: dict[str, dict[str, int]] | None
    as_published: bool | None
    notes: dict[str, int]
    problems: list[str]
    class_names: list[str]


def summary(benchmark: str, root: Path) -> Summary:
    """`everest annotations BENCH --root DIR`: counts for each split, classes and problems, without any video.

    Args:
        benchmark: ucf101, hmdb51, k400, ssv2, oscc, or "folder" for your own videos.
        root: folder of the annotation files; of your own videos their folder (one for each class) or their table.
    """
    if benchmark == "folder":
        from pipeline.data.annotations.own import from_folders, from_table

        listing = from_table(root, root.parent) if root.is_file() else from_folders(root)
    else:
        listing = read(benchmark, root)
    published = PUBLISHED[benchmark].listed if benchmark in PUBLISHED else {}
    splits = listing.counts()
    return {
        "benchmark": benchmark,
        "classes": len(listing.classes),
        "videos": len(listing.videos),
        "without_label": sum(video.label < 0 for video in listing.videos),
        "splits": splits,
        "published": {split: dict(roles) for split, roles in published.items()} or None,
        "as_published": splits == published if published else None,
        "notes": listing.notes,
        "problems": listing.problems,
        "class_names": listing.classes,
    }
