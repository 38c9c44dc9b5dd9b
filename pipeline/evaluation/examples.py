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
    """One test video: its classes by number, and the probabilities of the predicted and of the true one.

    `labels` are all of its classes, where videos have several.
    """

    video_id: str
    label: int
    predicted: int
    confidence: float
    true_probability: float
    labels: tuple[int, ...] = ()


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


def surest_wrong(
    video_ids: Sequence[str], probability_VC: npt.ArrayLike, truth_VC: npt.ArrayLike, most: int = MOST
) -> list[Example]:
    """Of videos with several classes those whose most probable class that they do not have is given most, first."""
    probability, truth = np.asarray(probability_VC), np.asarray(truth_VC)
    absent_VC = np.where(truth, -1.0, probability)
    order = np.argsort(-absent_VC.max(axis=1), kind="stable").tolist()
    rows = [row for row in order if not truth[row].all()][:most]
    return [_of_several(video_ids[row], probability[row], truth[row], int(absent_VC[row].argmax())) for row in rows]


def least_seen(
    video_ids: Sequence[str], probability_VC: npt.ArrayLike, truth_VC: npt.ArrayLike, most: int = MOST
) -> list[Example]:
    """Of videos with several classes those of which one of their own is given least, first."""
    probability, truth = np.asarray(probability_VC), np.asarray(truth_VC)
    own_VC = np.where(truth, probability, 2.0)
    order = np.argsort(own_VC.min(axis=1), kind="stable").tolist()
    rows = [row for row in order if truth[row].any()][:most]
    return [_of_several(video_ids[row], probability[row], truth[row], int(own_VC[row].argmin())) for row in rows]


def _of_several(video_id: str, probability_C: np.ndarray, truth_C: np.ndarray, predicted: int) -> Example:
    """The class in question is `predicted`; `label` is the one of the video's own that is given most."""
    true = np.flatnonzero(truth_C).tolist()
    label = max(true, key=lambda number: float(probability_C[number]), default=-1)
    given = float(probability_C[label]) if true else 0.0
    return Example(video_id, label, predicted, float(probability_C[predicted]), given, tuple(true))


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
