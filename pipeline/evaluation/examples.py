"""Which test videos are worth a look: the errors that the model was surest of, and the hits that it was least sure of.

Legend: V videos, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: So many of each kind: what a person looks through, whatever the number of videos.
MOST = 12


class Example(NamedTuple):
    """One test video: its classes by number, and the probabilities of the predicted and of the true one."""

    video_id: str
    label: int
    predicted: int
    confidence: float
    true_probability: float


def confident_errors(
    video_ids: Sequence[str], probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, most: int = MOST
) -> list[Example]:
    """The wrongly answered videos with the highest confidence, highest first; equal ones in the given order."""
    probability, label = np.asarray(probability_VC), np.asarray(label_V)
    wrong = np.flatnonzero(probability.argmax(axis=1) != label)
    order = np.argsort(-probability[wrong].max(axis=1), kind="stable")
    return _examples(video_ids, probability, label, wrong[order][:most])


def doubtful_hits(
    video_ids: Sequence[str], probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, most: int = MOST
) -> list[Example]:
    """The rightly answered videos with the lowest confidence, lowest first; equal ones in the given order."""
    probability, label = np.asarray(probability_VC), np.asarray(label_V)
    right = np.flatnonzero(probability.argmax(axis=1) == label)
    order = np.argsort(probability[right].max(axis=1), kind="stable")
    return _examples(video_ids, probability, label, right[order][:most])


def _examples(
    video_ids: Sequence[str], probability_VC: np.ndarray, label_V: np.ndarray, rows: np.ndarray
) -> list[Example]:
    return [
        Example(
            video_ids[row],
            int(label_V[row]),
            int(probability_VC[row].argmax()),
            float(probability_VC[row].max()),
            float(probability_VC[row, label_V[row]]),
        )
        for row in rows.tolist()
    ]
