"""Scores as pure functions of probabilities and labels.

Legend: V videos, X views of a video, C classes, K draws of the bootstrap. Accuracies are shares in [0, 1].
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.multilabel.labels import THRESHOLD
from pipeline.multilabel.precision import interval_of, mean_average_precision, precision_interval
from pipeline.tracking import names

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Numbers drawn at a time by the bootstrap: bounds its memory (64 MiB).
_BLOCK = 1 << 23


class Interval(NamedTuple):
    low: float
    high: float


def softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Softmax over the last axis, in fp32."""
    values = np.asarray(logits, dtype=np.float32)
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(values / values.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """1 / (1 + e^-x), in fp32, without an overflow."""
    values = np.asarray(logits, dtype=np.float32)
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1 + small), dtype=np.float32)


def average_views(logits_XC: npt.ArrayLike, several: bool = False) -> npt.NDArray[np.float32]:
    """Probabilities [C] of one video: softmax of each view, then their mean, in fp32 (METHOD section 7).

    Args:
        several: a video may have several classes, and each logit goes through a sigmoid of its own.
    """
    values_XC = sigmoid(logits_XC) if several else softmax(logits_XC)
    return np.asarray(values_XC.mean(axis=0), dtype=np.float32)


def hits(probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, k: int = 1) -> Bools:
    """Whether each video's label is among its k most probable classes. Of equal ones the lower class comes first."""
    probability = np.asarray(probability_VC)
    label = np.asarray(label_V)
    of_label = np.take_along_axis(probability, label[:, None], axis=1)
    before = (np.arange(probability.shape[1])[None, :] < label[:, None]) & (probability == of_label)
    rank = (probability > of_label).sum(axis=1) + before.sum(axis=1)
    return np.asarray(rank < k)


def confusion(predicted_V: npt.ArrayLike, label_V: npt.ArrayLike, classes: int) -> Ints:
    """Counts [C, C]: row the true class, column the predicted one."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(label_V), np.asarray(predicted_V)), 1)
    return counts


def per_class(counts_CC: npt.ArrayLike) -> Floats:
    """Accuracy [C] of each true class; NaN where it has no video."""
    counts = np.asarray(counts_CC, dtype=np.float64)
    total = counts.sum(axis=1)
    accuracy_C: Floats = np.divide(counts.diagonal(), total, out=np.full(len(total), np.nan), where=total > 0)
    return accuracy_C


def calibration_error(probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017).

    The mean gap between confidence and accuracy over equal-width bins of the confidence, weighted by their videos.
    """
    probability = np.asarray(probability_VC, dtype=np.float64)
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == np.asarray(label_V)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = 0.0
    for one in range(bins):
        chosen = place == one
        if chosen.any():
            gap += chosen.mean() * abs(right[chosen].mean() - confidence[chosen].mean())
    return float(gap)


def bootstrap(values_V: npt.ArrayLike, draws: int, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile interval of the mean, by drawing videos with replacement `draws` times."""
    values = np.asarray(values_V, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("no values to draw from: the bootstrap needs at least one video. Cure: check the split.")
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(values))
    means = np.concatenate(
        [
            values[random.integers(0, len(values), (min(block, draws - start), len(values)))].mean(axis=1)
            for start in range(0, draws, block)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def share_interval(hits_V: npt.ArrayLike, draws: int, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of a share of right answers: by bootstrap, or exact where all answers are alike.

    Drawing from equal values would give an interval of no width, as if one video were certainty; the exact one is
    Clopper and Pearson's (1934).
    """
    hits = np.asarray(hits_V, dtype=np.float64)
    if len(hits) == 0 or hits.min() < hits.max():
        return bootstrap(hits, draws, seed, level)
    end = ((1 - level) / 2) ** (1 / len(hits))
    return Interval(end, 1.0) if hits[0] else Interval(0.0, 1 - end)


def wilson(right: int, total: int, z: float = 1.959964) -> Interval:
    """Interval of a share of right answers after Wilson (1927), 95 % by default: good for few answers, too.

    Raises:
        ValueError: no answers.
    """
    if total < 1:
        raise ValueError(f"{total} answers have no share: at least one is needed. Cure: leave such a class out.")
    share, z2 = right / total, z * z
    middle, half = share + z2 / (2 * total), z * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    # Rounding would leave a share of 0 or 1 just outside.
    return Interval(
        max(0.0, min(share, float((middle - half) / scale))), min(1.0, max(share, float((middle + half) / scale)))
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over splits or seeds; no deviation for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def scores(
    probability_VC: npt.ArrayLike, label_V: npt.ArrayLike, total: int, draws: int, seed: int = 0
) -> dict[str, float]:
    """All of a benchmark's scores, under their tracked names.

    Args:
        probability_VC, label_V: the videos that could be read.
        total: how many the test split has, unreadable ones included.
    """
    probability = np.asarray(probability_VC)
    label = np.asarray(label_V)
    first = hits(probability, label)
    interval = share_interval(first, draws, seed)
    metrics = {
        names.EVAL_TOP1: float(first.mean()),
        names.EVAL_TOP1_LOW: interval.low,
        names.EVAL_TOP1_HIGH: interval.high,
        names.EVAL_CLASS_MEAN: float(
            np.nanmean(per_class(confusion(probability.argmax(axis=1), label, probability.shape[1])))
        ),
        names.EVAL_CALIBRATION_ERROR: calibration_error(probability, label),
        names.EVAL_VIDEOS_OK: float(len(label)),
        names.EVAL_VIDEOS_TOTAL: float(total),
    }
    if probability.shape[1] > 5:
        # Of five classes or fewer every prediction is right within five.
        metrics[names.EVAL_TOP5] = float(hits(probability, label, 5).mean())
    return metrics


def decisions(probability_VC: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Probabilities [V*C, 2] of no and yes, for the question whether a video has a class: one for each of both."""
    yes = np.asarray(probability_VC, dtype=np.float32).reshape(-1)
    return np.stack([1 - yes, yes], axis=1)


def several_scores(
    probability_VC: npt.ArrayLike, truth_VC: Bools, total: int, draws: int, seed: int = 0
) -> dict[str, float]:
    """As :func:`scores`, of videos with several classes each: mean average precision, and decisions at one half.

    Args:
        truth_VC: which classes each video has.
    """
    probability = np.asarray(probability_VC)
    interval = precision_interval(probability, truth_VC, draws, seed)
    said = probability >= THRESHOLD
    return {
        names.EVAL_MAP: mean_average_precision(probability, truth_VC),
        names.EVAL_MAP_LOW: interval.low,
        names.EVAL_MAP_HIGH: interval.high,
        names.EVAL_F1: float(2 * (said & truth_VC).sum() / (said.sum() + truth_VC.sum())),
        names.EVAL_EXACT: float((said == truth_VC).all(axis=1).mean()),
        names.EVAL_CALIBRATION_ERROR: calibration_error(decisions(probability), truth_VC.reshape(-1)),
        names.EVAL_VIDEOS_OK: float(len(truth_VC)),
        names.EVAL_VIDEOS_TOTAL: float(total),
    }


def strategy_difference(a_SV: npt.ArrayLike, b_RV: npt.ArrayLike, draws: int, seed: int = 0) -> tuple[float, Interval]:
    """Mean of a - b and its 95 % interval over videos and trainings.

    Args:
        a_SV, b_RV: hits of each training (one row a seed) on the same videos (columns).

    Videos are drawn with replacement jointly for both, seeds for each strategy on its own: with several seeds
    the interval holds the chance of the training too, with one seed it cannot.
    """
    a, b = np.asarray(a_SV, dtype=np.float64), np.asarray(b_RV, dtype=np.float64)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} videos: the same ones are needed. Cure: evaluate both alike.")
    random = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        videos = random.integers(0, a.shape[1], a.shape[1])
        of_a, of_b = random.integers(0, len(a), len(a)), random.integers(0, len(b), len(b))
        means[draw] = a[of_a].mean(axis=0)[videos].mean() - b[of_b].mean(axis=0)[videos].mean()
    return float(a.mean() - b.mean()), Interval(*interval_of(means, a.shape[1]))


def seeds_interval(hits_SV: npt.ArrayLike, draws: int, seed: int = 0) -> Interval:
    """95 % interval of a strategy's accuracy over videos and trainings (see :func:`strategy_difference`)."""
    values = np.asarray(hits_SV, dtype=np.float64)
    _, (low, high) = strategy_difference(values, np.zeros((1, values.shape[1])), draws, seed)
    return Interval(max(0.0, low), min(1.0, high))
