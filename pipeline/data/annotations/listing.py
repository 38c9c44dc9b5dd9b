"""A benchmark's videos as their publisher lists them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ListedVideo:
    """One video as its publisher lists it.

    Attributes:
        video_id: unique within the benchmark.
        path: of the file, relative to the raw folder; it need not exist.
        splits: "train", "val", "test" or "unused", one for each of the publisher's splits.
        label: class number, -1 where the publisher gives none.
        source: where the bytes came from, without secrets.
        sha256: the expected hash, where one is known.
    """

    video_id: str
    path: str
    splits: tuple[str, ...]
    label: int
    label_name: str
    source: str
    sha256: str | None = None


@dataclass
class Listing:
    """All videos of a benchmark. `classes[label]` is a class's name.

    `missing_by_design` is the share of listed videos that the publisher's own copy lacks: so many absent
    files do not count against the failure budget.
    """

    classes: list[str]
    videos: list[ListedVideo]
    problems: list[str] = field(default_factory=list)
    missing_by_design: float = 0.0
