"""What every parser of annotations gives, and what several of them read files with."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError

Content = TypeVar("Content")

#: How deep annotation files may lie below the folder that was named.
SEARCH_DEPTH = 3


@dataclass(frozen=True)
class ListedVideo:
    """One video as its publisher lists it.

    Attributes:
        video_id: unique within the benchmark.
        path: of the file, which need not exist: the publisher's name for it ("class/name.avi" or "name.mp4"), or
            relative to the raw folder once its source has placed it there.
        splits: its role in each of the publisher's splits: "train", "val", "test" or "unused".
        label: class number from 0, -1 where the publisher gives none; of several the first.
        source: where the bytes came from, without secrets.
        sha256: the expected hash, where one is known.
        labels: all its class numbers, ascending, in a set whose videos have several; else ().
    """

    video_id: str
    path: str
    splits: tuple[str, ...]
    label: int
    label_name: str
    source: str = ""
    sha256: str | None = None
    labels: tuple[int, ...] = ()


def classes_of(video: ListedVideo) -> tuple[int, ...]:
    """All class numbers of a video: one, several, or none."""
    return video.labels or ((video.label,) if video.label >= 0 else ())


@dataclass
class Listing:
    """All that one benchmark's annotations say. `classes[label]` is a class's name.

    `notes` are counts worth reporting that are no fault. `missing_by_design` is the share of listed videos that the
    publisher's own copy lacks: so many absent files do not count against the failure budget.
    """

    classes: list[str]
    videos: list[ListedVideo]
    problems: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    missing_by_design: float = 0.0

    @property
    def multi_label(self) -> bool:
        """Whether videos have several classes each."""
        return any(video.labels for video in self.videos)

    def counts(self) -> dict[str, dict[str, int]]:
        """Videos by split number and role: {"1": {"test": 3783, "train": 9537}}."""
        number = max((len(video.splits) for video in self.videos), default=0)
        return {
            str(index + 1): dict(sorted(Counter(video.splits[index] for video in self.videos).items()))
            for index in range(number)
        }


def understood(parse: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """A parser of a file or folder whose errors name it where its content has another form than the publisher's."""

    @functools.wraps(parse)
    def parsed(place: Path) -> Content:
        try:
            return parse(place)
        except InputError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, csv.Error) as error:
            raise InputError(
                f"{place} is not of the publisher's form ({type(error).__name__}: {error}). "
                "Cure: fetch it again; its text has to be UTF-8."
            ) from error

    return parsed


def find_folder(root: Path, wanted: Callable[[list[str]], bool], what: str, cure: str) -> Path:
    """The nearest folder at or below `root` whose file names satisfy `wanted`.

    Raises:
        InputError: there is none.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Cure: {cure}")
    level = [root]
    for _ in range(SEARCH_DEPTH):
        deeper: list[Path] = []
        for folder in level:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            if wanted([entry.name for entry in entries if entry.is_file()]):
                return folder
            deeper += [folder / entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
        level = deeper
    raise InputError(f"{root} holds no {what}. Cure: {cure}")


@understood
def lines_of(path: Path) -> list[str]:
    """Lines of a text file without line ends (LF or CRLF), outer blanks and empty lines."""
    text = path.read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        InputError: it is no JSON.
    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}. Cure: fetch it again.") from None
    return content


def text_of(row: Mapping[str, object], column: str) -> str:
    """A cell as text; "" where the table has no such column, or the row nothing in it: a 0 of Parquet is something."""
    cell = row.get(column)
    return "" if cell is None else str(cell)
