"""Which names and paths of params.yaml are safe to name folders, runs, metrics and stages with."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

#: [character] of a benchmark's or a recipe's name: both stand in file names with more around them.
MOST = 64
#: Names that stages, groups of metrics and folders have already; a benchmark's would be mixed up with them.
TAKEN = frozenset(
    ("all", "benchmarks", "compare", "corpus", "data", "download", "efficiency", "eval", "evaluate", "finetune",
     "preprocess", "pretrain", "report", "run", "scratch", "system", "train", "val")
)  # fmt: skip
_RECIPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def printable_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds a NUL or another control character, which no path means.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError(f"{text!r} holds a control character. Cure: write the path without it.")
    return text


def folder_below(text: str) -> str:
    """The text itself, if it names a folder below the one that it is relative to.

    Raises:
        ValueError: it is absolute, leads upwards, or is no name.
    """
    printable_text(text)
    parts = PurePosixPath(text).parts
    if not parts or text.startswith("/") or len(text) > 200 or any(part[0] in ".-~" for part in parts):
        raise ValueError(
            f"{text!r} is no folder below data/raw (EVEREST_DATA moves that). Cure: a plain name such as 'videos', "
            "not absolute and without '..'."
        )
    return text


def recipe_name(text: str) -> str:
    """The text itself, if a recipe may have it as its name.

    Raises:
        ValueError: it is empty, too long, or holds more than letters, digits, '.', '-' and '_'.
    """
    if not _RECIPE.fullmatch(text) or len(text) > MOST:
        raise ValueError(
            f"{text[: 2 * MOST]!r} is no recipe's name: it names experiments and models. Cure: up to {MOST} letters, "
            "digits, '.', '-' and '_', a letter or digit first."
        )
    return text


def benchmark_fault(name: str) -> str | None:
    """What is wrong with a benchmark's name, with the cure; None where nothing is."""
    shown = repr(name[: 2 * MOST])
    if name.lower() in TAKEN:
        return f"the name {shown} is taken by the pipeline itself. Cure: another name, such as {name.lower() + '_1'!r}."
    plain = name.replace("_", "").replace("-", "").isalnum() and name[0].isalnum()
    if not plain or len(name) > MOST or unicodedata.normalize("NFC", name) != name:
        return (
            f"{shown} cannot be a benchmark's name: it names folders, stages and metrics. Cure: up to {MOST} letters, "
            "digits, '-' and '_', a letter or digit first."
        )
    return None


def nearest(key: str, known: Iterable[str]) -> str:
    """The cure for an unknown name: the known one that is most like it, or the first of them."""
    keys = list(known)
    parts = key.split(".")
    if parts[0] == "benchmarks" and len(parts) > 1:
        keys = [name.replace("*", parts[1], 1) for name in keys]
    match = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    if not match:
        # The right group with a stray leaf, or the right leaf without its group.
        match = [name for name in keys if name.rsplit(".", 1)[-1] == parts[-1]][:1]
    return f"did you mean {match[0]!r}?" if match else f"use one of: {', '.join(keys[:12])}."
