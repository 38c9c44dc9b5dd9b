"""How far a model's confidence can be believed: reliability by bins, and temperature scaling (Guo et al. 2017).

Legend: V videos, C classes. What is scaled are a video's averaged probabilities, p^(1/T) normalised: for one view that
is the logits divided by T, and it needs nothing but what a prediction holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.metrics import Interval, wilson

Floats = npt.NDArray[np.float64]

#: Bins of equal width over the confidence, as the calibration error has them.
BINS = 15
#: Temperatures beyond are those of a model that hardly tells classes apart, or is no better than chance.
COLDEST, HOTTEST = 0.05, 20.0


class Bin(NamedTuple):
    """The videos whose confidence lies between two bounds: how confident, and how often right, with a 95 % interval."""

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: float
    interval: Interval


def reliability(probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """The bins that hold videos, by rising confidence; shares in [0, 1]."""
    probability = np.asarray(probability_VC)
    confidence, right = probability.max(axis=1).astype(np.float64), probability.argmax(axis=1) == np.asarray(label_V)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = []
    for one in np.unique(place).tolist():
        chosen = place == one
        videos, hits = int(chosen.sum()), int(right[chosen].sum())
        mean = float(confidence[chosen].mean())
        rows.append(Bin(one / bins, (one + 1) / bins, videos, mean, hits / videos, wilson(hits, videos)))
    return rows


def tempered(probability_VC: npt.ArrayLike, temperature: float) -> Floats:
    """Probabilities [V, C] at a temperature: above 1 less confident, below 1 more; their order stays.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}, expected above 0. Cure: 1 leaves probabilities as they are.")
    return _scaled(_logs(probability_VC), 1 / temperature)


def negative_log_likelihood(probability_VC: npt.ArrayLike, label_V: npt.ArrayLike) -> float:
    """The mean of -ln p of the true class [nats]."""
    own_V1 = np.take_along_axis(np.asarray(probability_VC), np.asarray(label_V)[:, None], axis=1)
    return float(-_logs(own_V1).mean())


def fit_temperature(probability_VC: npt.ArrayLike, label_V: npt.ArrayLike) -> float:
    """The temperature that fits these videos best, as if two more had been seen and one of them was wrong.

    The likelihood alone goes to the coldest where a model is right on all of few videos, which says nothing about the
    next ones. So the true class of V videos counts (V + 1) / (V + 2), as in Platt 1999, and the other classes share the
    rest; with many videos that is the likelihood (Guo et al. 2017). It is convex in 1 / T: the place where its slope
    changes sign is the only one, sought between `COLDEST` and `HOTTEST`.

    Raises:
        ValueError: no videos.
    """
    logs, label = _logs(probability_VC), np.asarray(label_V)
    if len(label) == 0:
        raise ValueError("no videos to fit a temperature on: expected at least one. Cure: give a validation split.")
    videos, classes = logs.shape
    of_label = np.take_along_axis(logs, label[:, None], axis=1).mean()
    other = 1 / ((videos + 2) * max(1, classes - 1))
    of_targets = (1 - classes * other) * of_label + other * logs.sum(axis=1).mean()
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(50):
        middle = (low + high) / 2
        slope = (_scaled(logs, np.exp(middle)) * logs).sum(axis=1).mean() - of_targets
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def _logs(probability_VC: npt.ArrayLike) -> Floats:
    """Logarithms; what fp32 rounded to zero counts as its smallest number."""
    return np.log(np.maximum(np.asarray(probability_VC, dtype=np.float64), np.finfo(np.float32).tiny))


def _scaled(logs_VC: Floats, inverse: float) -> Floats:
    values = logs_VC * inverse
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))
