"""What every parser of a publisher's annotations gives."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError

#: How deep annotation files may lie below the folder that was named.
SEARCH_DEPTH = 3


@dataclass(frozen=True)
class Annotated:
    """One annotated video.

    Attributes:
        video_id: unique within the benchmark.
        file: the publisher's name for the file: "class/name.avi" or "name.mp4".
        label: class number from 0, -1 where none is given.
        splits: its role in each of the publisher's splits: "train", "val", "test" or "unused".
    """

    video_id: str
    file: str
    label: int
    label_name: str
    splits: tuple[str, ...]


@dataclass
class Annotations:
    """All that one benchmark's annotation files say. `notes` are counts worth reporting that are no fault."""

    classes: list[str]
    videos: list[Annotated]
    problems: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, int]]:
        """Videos by split number and role: {"1": {"test": 3783, "train": 9537}}."""
        number = max((len(video.splits) for video in self.videos), default=0)
        return {
            str(index + 1): dict(sorted(Counter(video.splits[index] for video in self.videos).items()))
            for index in range(number)
        }


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


def lines_of(path: Path) -> list[str]:
    """Lines of a text file without line ends (LF or CRLF), outer blanks and empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text. Cure: fetch it again.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
