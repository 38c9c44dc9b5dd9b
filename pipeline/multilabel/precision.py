"""Average precision of a ranking, its mean over classes (mAP), and their intervals by the bootstrap over videos.

A class's average precision is the mean, over the videos that have it, of the share of such videos among all that are
ranked as high or higher: not interpolated, equal scores as one rank, as scikit-learn's `average_precision_score` has
it. A class that no video has counts in no mean.

Legend: V videos, C classes, D draws of the bootstrap, S and R trainings. Shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.multilabel.labels import Floats, Truth

#: Numbers that one block of draws holds for one class: bounds its memory (32 MiB).
_BLOCK = 1 << 22


class Interval(NamedTuple):
    low: float
    high: float


def average_precision(score_VC: npt.ArrayLike, truth_VC: Truth, weight_DV: npt.ArrayLike | None = None) -> Floats:
    """Average precision of each class: [C], or [D, C] under each row of weights; NaN where no video has the class.

    Args:
        score_VC: higher is more probable.
        weight_DV: how often each video counts; None: each once.
    """
    score = np.asarray(score_VC)
    weights = np.ones((1, len(score))) if weight_DV is None else np.asarray(weight_DV, dtype=np.float64)
    columns = [_of_class(score[:, place], truth_VC[:, place], weights) for place in range(score.shape[1])]
    found_DC = np.stack(columns, axis=1)
    return found_DC[0] if weight_DV is None else found_DC


def mean_average_precision(score_VC: npt.ArrayLike, truth_VC: Truth) -> float:
    """The mean of :func:`average_precision` over the classes that a video has; NaN where there is none."""
    return float(_mean(average_precision(score_VC, truth_VC)[None])[0])


def chance_precision(truth_VC: Truth) -> Floats:
    """The average precision that a random ranking is expected to have of each class: [C], NaN where no video has it.

    At place k stands, where it is one of the P videos in V that have the class, itself and (k - 1) (P - 1) / (V - 1) of
    the others: more than P / V, by much where P is small (1 of 100: 5.2 %).
    """
    videos, count_C = len(truth_VC), truth_VC.sum(axis=0)
    itself = float(np.sum(1 / np.arange(1, videos + 1))) / videos
    expected_C: Floats = itself + (1 - itself) * (count_C - 1) / max(1, videos - 1)
    return np.where(count_C > 0, expected_C, np.nan)


def mean_chance_precision(truth_VC: Truth) -> float:
    """The mean of :func:`chance_precision` over the classes that a video has."""
    return float(np.nanmean(chance_precision(truth_VC)))


def precision_interval(
    score_VC: npt.ArrayLike, truth_VC: Truth, draws: int, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of the mean average precision, by drawing videos with replacement.

    Where every draw ranks perfectly the lower end is that of as many right answers (Clopper and Pearson 1934): drawing
    equal values would give an interval of no width.

    Raises:
        ValueError: no video, or none with a class.
    """
    if not truth_VC.any():
        raise ValueError("no video has a class: the bootstrap needs at least one that has. Cure: check the split.")
    values_D = _drawn(score_VC, truth_VC, draws, seed)
    low, high = np.nanquantile(values_D, [(1 - level) / 2, (1 + level) / 2])
    if low == high == 1.0:
        low = ((1 - level) / 2) ** (1 / len(truth_VC))
    return _around(mean_average_precision(score_VC, truth_VC), float(low), float(high))


def precision_difference(
    a: Sequence[npt.ArrayLike], b: Sequence[npt.ArrayLike], truth_VC: Truth, draws: int, seed: int = 0
) -> tuple[float, Interval]:
    """Mean average precision of the trainings `a` minus that of `b`, and its 95 % interval over videos and trainings.

    Args:
        a, b: probabilities [V, C] of each training (S and R of them) on the same videos.

    Videos are drawn with replacement jointly for both, trainings for each side on its own.
    """
    random = np.random.default_rng([seed, 1])
    sides = []
    for side in (a, b):
        values_SD = np.stack([_drawn(one, truth_VC, draws, seed) for one in side])  # the same videos in each draw
        chosen_DS = random.integers(0, len(side), (draws, len(side)))
        sides.append(np.take_along_axis(values_SD.T, chosen_DS, axis=1).mean(axis=1))
    means = [float(np.mean([mean_average_precision(one, truth_VC) for one in side])) for side in (a, b)]
    return means[0] - means[1], interval_of(sides[0] - sides[1], len(truth_VC))


def trainings_interval(scores: Sequence[npt.ArrayLike], truth_VC: Truth, draws: int, seed: int = 0) -> Interval:
    """95 % interval of the mean average precision over videos and trainings (see :func:`precision_difference`)."""
    random = np.random.default_rng([seed, 1])
    values_SD = np.stack([_drawn(one, truth_VC, draws, seed) for one in scores])
    chosen_DS = random.integers(0, len(scores), (draws, len(scores)))
    values_D = np.take_along_axis(values_SD.T, chosen_DS, axis=1).mean(axis=1)
    mean = float(np.mean([mean_average_precision(one, truth_VC) for one in scores]))
    return _around(mean, *interval_of(values_D, len(truth_VC)))


def _around(share: float, low: float, high: float) -> Interval:
    """An interval within [0, 1] that holds its share: rounding, and very skewed draws, would leave it outside."""
    return Interval(max(0.0, min(low, share)), min(1.0, max(high, share)))


def interval_of(values_D: npt.ArrayLike, videos: int) -> Interval:
    """95 % interval of the draws of a difference of shares, in [-1, 1].

    Where all draws are alike it would have no width, as if a few videos were certainty: it is then as wide as that of
    as many equal answers (Clopper and Pearson 1934).
    """
    low, high = (float(end) for end in np.nanquantile(np.asarray(values_D, dtype=np.float64), [0.025, 0.975]))
    if high - low > 1e-12:
        return Interval(low, high)
    slack = 1 - 0.025 ** (1 / videos)
    return Interval(max(-1.0, low - slack), min(1.0, high + slack))


def _drawn(score_VC: npt.ArrayLike, truth_VC: Truth, draws: int, seed: int) -> Floats:
    """The mean average precision of each draw [D], around that of the videos; NaN of one without any class.

    A video that is drawn twice stands beside itself in the ranking, so that draws are better than their videos are, by
    much where a class has few: their mean is moved to what the videos have (the bootstrap's estimate of a bias).
    """
    values_D = np.concatenate(
        [_mean(average_precision(score_VC, truth_VC, w)) for w in _weights(len(truth_VC), draws, seed)]
    )
    moved_D: Floats = values_D + (mean_average_precision(score_VC, truth_VC) - np.nanmean(values_D))
    return moved_D


def _weights(videos: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each video is drawn, [D, V], a block of draws at a time: the same for the same seed."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // videos)
    for start in range(0, draws, block):
        count = min(block, draws - start)
        drawn_DV = random.integers(0, videos, (count, videos))
        flat = (drawn_DV + videos * np.arange(count)[:, None]).reshape(-1)
        yield np.bincount(flat, minlength=count * videos).reshape(count, videos).astype(np.float64)


def _of_class(score_V: npt.NDArray[np.generic], truth_V: Truth, weight_DV: Floats) -> Floats:
    """Average precision of one class under each row of weights [D]."""
    order = np.argsort(-score_V.astype(np.float64), kind="stable")
    ranked, right = score_V[order], np.flatnonzero(truth_V[order])
    # Equal scores are one rank: what counts before a video is all up to the last one of its rank.
    last_of = np.searchsorted(-ranked.astype(np.float64), -ranked[right].astype(np.float64), side="right") - 1
    weight_DV = weight_DV[:, order]
    own_DP = weight_DV[:, right]
    above_DP = np.cumsum(weight_DV, axis=1)[:, last_of]
    right_until = np.searchsorted(right, last_of, side="right") - 1
    above_right_DP = np.cumsum(own_DP, axis=1)[:, right_until]
    precision_DP = np.divide(above_right_DP, above_DP, out=np.zeros_like(own_DP), where=above_DP > 0)
    total_D = own_DP.sum(axis=1)
    found_D: Floats = np.divide(
        (own_DP * precision_DP).sum(axis=1), total_D, out=np.full(len(weight_DV), np.nan), where=total_D > 0
    )
    return found_D


def _mean(precision_DC: Floats) -> Floats:
    """Mean over the classes that are not NaN [D]; NaN where all are."""
    known_DC = ~np.isnan(precision_DC)
    count_D = known_DC.sum(axis=1)
    total_D = np.where(known_DC, precision_DC, 0.0).sum(axis=1)
    found_D: Floats = np.divide(total_D, count_D, out=np.full(len(count_D), np.nan), where=count_D > 0)
    return found_D
