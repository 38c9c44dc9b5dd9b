"""Whether class names and numbers mean what they seem to: none twice in two spellings, none that nobody has."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from pipeline.system.text import printable

#: Numbers that a message lists.
NAMED = 5


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names that a reader takes for one: they differ only by case, blanks, invisible characters or Unicode form."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[_as_read(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _as_read(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)
    visible = "".join(character for character in composed if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()).lower())


def alike_fault(where: str, names: Iterable[str]) -> str | None:
    """The message where classes are spelt in several ways; escapes show how they differ."""
    groups = alike(names)
    if not groups:
        return None
    shown = "; ".join(" and ".join(ascii(name) for name in group) for group in groups[:NAMED])
    return (
        f"{where}: names that differ only by case, blanks or Unicode form would be separate classes: {shown}. "
        "Cure: spell each class one way."
    )


def counted_from_one(labels: set[int]) -> bool:
    """Whether several numbers run from 1 without a gap, and none is 0."""
    return len(labels) > 1 and labels == set(range(1, len(labels) + 1))


def count_fault(key: str, expected: int, classes: list[str], labels: set[int]) -> str | None:
    """The message where `expected` classes are not those of the annotations, with the cure that leaves none empty."""
    if len(classes) == expected:
        return None
    absent = sorted(set(range(len(classes))) - labels)
    if labels and absent:
        shown = ", ".join(map(str, absent[:NAMED])) + (", ..." if len(absent) > NAMED else "")
        return (
            f"{key} = {expected}, the annotations number {len(labels)} classes up to {len(classes) - 1}, and no video "
            f"has {shown}. Cure: number them from 0 to {len(labels) - 1} without a gap and set classes to "
            f"{len(labels)}; or set classes to {len(classes)} if the others are wanted."
        )
    shown = ", ".join(map(printable, classes[:NAMED]))
    return (
        f"{key} = {expected}, the annotations name {len(classes)} classes ({shown}, ...). "
        f"Cure: set classes to {len(classes)}, or complete the annotations."
    )
