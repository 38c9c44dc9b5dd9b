"""Several classes of one video: as a table writes them (`a|b`), and as a matrix.

Legend: V videos, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Truth = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Between the classes of one video, in a table's column `label` and in a manifest's `label_name`.
SEPARATOR = "|"
#: Probability from which on a class counts as predicted: a sigmoid's one half.
THRESHOLD = 0.5


def class_parts(label: str) -> list[str]:
    """The classes that a label names: one, several with `|` between them, or none of an empty one."""
    return label.split(SEPARATOR) if label else []


def multi_hot(sets: Iterable[Sequence[int]], classes: int) -> Truth:
    """Which classes each video has, [V, C], from their numbers."""
    rows = list(sets)
    truth_VC = np.zeros((len(rows), classes), dtype=bool)
    for row, numbers in enumerate(rows):
        truth_VC[row, list(numbers)] = True
    return truth_VC


def said(probability_C: npt.NDArray[np.floating], names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes from THRESHOLD on."""
    return tuple(names[number] for number in np.flatnonzero(probability_C >= THRESHOLD).tolist())


def positive_weights(truth_VC: Truth) -> Floats:
    """How many times a video with a class counts beside one without it, [C], so that both count as much in all.

    1 of a class that no video has, or every one.
    """
    positives_C = truth_VC.sum(axis=0)
    negatives_C = len(truth_VC) - positives_C
    return np.where((positives_C > 0) & (negatives_C > 0), negatives_C / np.maximum(positives_C, 1), 1.0)
