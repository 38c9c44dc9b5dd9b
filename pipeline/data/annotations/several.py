"""Several classes in one label of a table, `a|b`: read, and refused where they cannot be meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.data.annotations.base import text_of
from pipeline.errors import InputError
from pipeline.multilabel.labels import SEPARATOR, class_parts
from pipeline.system.text import printable


def labels_of(rows: Sequence[tuple[int, Mapping[str, object]]], table: Path) -> dict[int, list[str]] | None:
    """The classes of each row by its line, none of an empty label; None of a table whose labels name one class each.

    Blanks around a class's name do not count.

    Raises:
        InputError: a class without a name, or one that a label names twice.
    """
    if not any(SEPARATOR in str(row["label"]) for _, row in rows):
        return None
    labels: dict[int, list[str]] = {}
    for line, row in rows:
        label = row["label"]
        parts = [part.strip() for part in class_parts("" if label is None else str(label))]
        if "" in parts:
            raise InputError(
                f"{table}, row {line}: label = {label!r} has an empty class between its {SEPARATOR}. "
                f"Cure: a class on both sides of each {SEPARATOR}, as in a{SEPARATOR}b; nothing at all where a video "
                "has no label."
            )
        same = [str(int(part)) if part.isascii() and part.isdigit() else part for part in parts]
        twice = [part for part, count in Counter(same).items() if count > 1]
        if twice:
            raise InputError(f"{table}, row {line}: label = {label!r} names {twice[0]!r} twice. Cure: each class once.")
        labels[line] = parts
    return labels


def names_of(row: Mapping[str, object], labels: Sequence[int], several: bool, line: int, table: Path) -> list[str]:
    """The name of each of a row's class numbers, from its column label_name; the number where there is none.

    Raises:
        InputError: other than as many names as numbers.
    """
    text = text_of(row, "label_name")
    if not text:
        return [str(label) for label in labels]
    names = [part.strip() for part in class_parts(text)] if several else [text]
    if not labels:
        return []
    if len(names) != len(labels) or "" in names:
        raise InputError(
            f"{table}, row {line}: label_name = {text!r}, expected {len(labels)} names with {SEPARATOR} between them, "
            "in the order of label. Cure: one name for each class of the label."
        )
    return names


def separator_fault(folder: Path, classes: Iterable[str]) -> str | None:
    """The message where a class's folder has the sign in its name that stands between several classes."""
    named = [name for name in classes if SEPARATOR in name]
    if not named:
        return None
    return (
        f"{folder}: the class folder {printable(named[0])!r} holds a {SEPARATOR}, which stands between several classes "
        f"of one video. Cure: rename it; videos with several classes need a table with the columns path,label and "
        f"labels such as a{SEPARATOR}b."
    )
