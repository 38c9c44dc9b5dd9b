"""Average precision is scikit-learn's, its mean leaves out what no video has, and its interval is a bootstrap's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.multilabel.precision import (
    average_precision,
    chance_precision,
    mean_average_precision,
    precision_difference,
    precision_interval,
    trainings_interval,
)

RNG = np.random.default_rng


def ranking(videos: int = 120, classes: int = 4, seed: int = 0, skill: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and which videos have which class; no video has the last one."""
    rng = RNG(seed)
    truth = rng.random((videos, classes)) < 0.3
    truth[:, -1] = False
    return np.round(rng.random((videos, classes)) + skill * truth, 1), truth


def test_each_class_has_the_average_precision_that_scikit_learn_gives_ties_included() -> None:
    scores, truth = ranking()
    found = average_precision(scores, truth)
    assert found[:3] == pytest.approx([average_precision_score(truth[:, c], scores[:, c]) for c in range(3)], abs=1e-12)
    assert np.isnan(found[3])
    assert mean_average_precision(scores, truth) == pytest.approx(found[:3].mean())


def test_a_video_that_is_drawn_twice_counts_as_two() -> None:
    scores, truth = ranking()
    weights = RNG(1).integers(0, 3, (2, 120))
    found = average_precision(scores, truth, weights)
    for row, weight in zip(found, weights, strict=True):
        again, truth_again = np.repeat(scores, weight, axis=0), np.repeat(truth, weight, axis=0)
        assert row[:3] == pytest.approx(average_precision(again, truth_again)[:3], abs=1e-12)


def test_a_ranking_by_chance_reaches_the_share_of_videos_and_a_perfect_one_all() -> None:
    _, truth = ranking(classes=3)
    assert mean_average_precision(np.zeros((120, 2)), truth[:, :2]) == pytest.approx(truth[:, :2].mean())
    assert mean_average_precision(truth.astype(float), truth) == 1
    low, high = precision_interval(truth.astype(float), truth, draws=50)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 120)), 1)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    """Of scores that are noise the true mean average precision is the classes' frequency, 0.5."""
    inside = 0
    for seed in range(60):
        rng = RNG(seed)
        truth, scores = rng.random((300, 2)) < 0.5, rng.random((300, 2))
        low, high = precision_interval(scores, truth, draws=200, seed=seed)
        inside += low <= 0.5 <= high
    assert inside >= 50


def test_chance_is_what_random_orders_reach_on_average() -> None:
    truth = np.zeros((40, 4), dtype=bool)
    truth[:1, 0], truth[:5, 1], truth[:, 2] = True, True, True
    orders = [average_precision(RNG(seed).random(truth.shape), truth) for seed in range(2000)]
    assert chance_precision(truth) == pytest.approx(np.mean(orders, axis=0), abs=0.006, nan_ok=True)
    assert chance_precision(truth)[0] == pytest.approx(sum(1 / k for k in range(1, 41)) / 40)
    assert chance_precision(truth[:1])[0] == 1


def rare(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise as scores of 20 classes that two of 100 videos have each."""
    rng = RNG(seed)
    return rng.random((100, 20)), rng.random((100, 20)).argsort(axis=0) < 2


def test_intervals_of_rare_classes_are_around_their_score_not_above_it() -> None:
    (scores, truth), (others, _) = rare(0), rare(1)
    value, other = (mean_average_precision(one, truth) for one in (scores, others))
    for low, high in (precision_interval(scores, truth, 400), trainings_interval([scores] * 2, truth, 400)):
        assert low < value < high
        assert value - low > 0.25 * (high - low)
    difference, (low, high) = precision_difference([scores], [truth], truth, draws=400)
    assert difference == pytest.approx(value - 1)
    assert low < difference < high, "of one side alone the draws are better than the videos"
    low, high = trainings_interval([scores, others], truth, 400)
    assert low < (value + other) / 2 < high


def test_two_trainings_are_told_apart_on_the_same_videos_and_equal_ones_are_not() -> None:
    good, truth = ranking(videos=200, skill=0.8)
    poor, _ = ranking(videos=200, skill=0.0)
    difference, (low, high) = precision_difference([good, good], [poor], truth, draws=200)
    assert difference == pytest.approx(mean_average_precision(good, truth) - mean_average_precision(poor, truth))
    assert 0 < low < difference < high
    none, (low, high) = precision_difference([good], [good], truth, draws=50)
    assert none == 0
    assert (low, high) == pytest.approx((-0.0183, 0.0183), abs=1e-4), "1 - 0.025 ** (1 / 200)"
    low, high = trainings_interval([good, poor], truth, draws=200)
    assert low < mean_average_precision(poor, truth) + 0.05
    assert high > mean_average_precision(good, truth) - 0.05


def test_trainings_that_rank_perfectly_have_an_interval_all_the_same() -> None:
    _, truth = ranking(videos=20, skill=0.0)
    perfect = truth.astype(np.float64)
    alone, together = precision_interval(perfect, truth, 50), trainings_interval([perfect] * 3, truth, 50)
    assert together == pytest.approx(alone)
    assert alone == pytest.approx((0.832, 1.0), abs=1e-3)


def test_without_any_class_there_is_nothing_to_draw_from() -> None:
    with pytest.raises(ValueError, match="no video has a class"):
        precision_interval(np.zeros((3, 2)), np.zeros((3, 2), dtype=bool), draws=10)
