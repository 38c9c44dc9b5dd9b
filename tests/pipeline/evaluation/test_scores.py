"""Scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EverestError
from pipeline.evaluation import metrics
from pipeline.evaluation.benchmark import TestSet, within_budget
from pipeline.evaluation.inference import Answer
from pipeline.evaluation.metrics import (
    average_views,
    bootstrap,
    calibration_error,
    confusion,
    hits,
    mean_and_deviation,
    per_class,
    scores,
    seeds_interval,
    share_interval,
    softmax,
    strategy_difference,
)

# Four videos, three classes. Predicted: 0, 1, 1, 2; true: 0, 1, 0, 2.
PROBABILITY = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1], [0.25, 0.15, 0.6]])
LABEL = np.array([0, 1, 0, 2])


def test_top1_and_topk_of_the_example() -> None:
    assert hits(PROBABILITY, LABEL).tolist() == [True, True, False, True]
    assert hits(PROBABILITY, LABEL, 2).all()


def test_confusion_and_class_accuracy_of_the_example() -> None:
    counts = confusion(PROBABILITY.argmax(axis=1), LABEL, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert per_class(counts).tolist() == [0.5, 1.0, 1.0]


def test_a_class_without_videos_has_no_accuracy() -> None:
    assert math.isnan(per_class(confusion([0], [0], 2))[1])


def test_calibration_error_of_the_example() -> None:
    # Ten bins: 0.5 (wrong), 0.6, 0.7 and 0.8 (right) each alone in one: (0.5 + 0.4 + 0.3 + 0.2) / 4.
    assert calibration_error(PROBABILITY, LABEL, bins=10) == pytest.approx(0.35)


def test_views_are_averaged_after_the_softmax() -> None:
    logits = np.array([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    # Softmax: (1/4, 3/4) and (9/10, 1/10); mean (0.575, 0.425). Averaging logits instead would give 0.634.
    assert average_views(logits) == pytest.approx([0.575, 0.425])
    assert average_views(logits).dtype == np.float32


def test_equal_probabilities_go_to_the_lower_class() -> None:
    even = np.full((3, 4), 0.25)
    assert hits(even, [0, 1, 3]).tolist() == [True, False, False]
    assert hits(even, [0, 1, 3], 2).tolist() == [True, True, False]
    assert even.argmax(axis=1).tolist() == [0, 0, 0]


def test_the_bootstrap_agrees_with_the_binomial_interval() -> None:
    right = np.arange(400) < 300
    low, high = bootstrap(right, 4000, seed=1)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)
    assert bootstrap(right, 4000, seed=1) == (low, high)


def test_the_bootstrap_in_blocks_covers_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.metrics._BLOCK", 1000)
    low, high = bootstrap(np.arange(100) < 50, 500)
    assert 0.3 < low < 0.45 < 0.55 < high < 0.7


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    hard = np.arange(200) % 2 == 0
    a, b = hard.copy(), hard.copy()
    a[1:20:2] = True
    difference, (low, high) = strategy_difference([a], [b], 2000)
    assert difference == pytest.approx(10 / 200)
    assert 0.02 < low < 0.05 < high < 0.09


@pytest.mark.parametrize(("right", "interval"), [(True, (0.832, 1.0)), (False, (0.0, 0.168))])
def test_trainings_that_answer_alike_have_the_interval_of_as_many_equal_answers(
    right: bool, interval: tuple[float, float]
) -> None:
    hits_SV = np.full((3, 20), right)
    assert seeds_interval(hits_SV, 100) == pytest.approx(interval, abs=1e-3)
    assert seeds_interval(hits_SV, 100) == pytest.approx(share_interval(hits_SV[0], 100))
    same, ends = strategy_difference(hits_SV, hits_SV, 100)
    assert same == 0
    assert ends == pytest.approx((-0.168, 0.168), abs=1e-3), "no difference on 20 videos is not certainty"
    apart, ends = strategy_difference(np.ones((2, 20)), np.zeros((2, 20)), 100)
    assert (apart, *ends) == pytest.approx((1.0, 0.832, 1.0), abs=1e-3)


def test_mean_and_deviation_over_splits() -> None:
    mean, deviation = mean_and_deviation([0.9, 0.93, 0.96])
    assert (mean, deviation) == (pytest.approx(0.93), pytest.approx(0.03))
    assert mean_and_deviation([0.5]) == (0.5, None)


def test_all_scores_of_the_example_with_one_unreadable_video() -> None:
    result = scores(PROBABILITY, LABEL, total=5, draws=200)
    assert result["eval/top1"] == 0.75
    assert (result["eval/videos_ok"], result["eval/videos_total"]) == (4, 5)
    assert result["eval/class_mean"] == pytest.approx(2.5 / 3)
    assert result["eval/top1_ci_low"] <= 0.75 <= result["eval/top1_ci_high"]
    assert "eval/top5" not in result, "with three classes it says nothing"


@given(st.lists(st.lists(st.floats(-5, 5), min_size=7, max_size=7), min_size=1, max_size=12), st.randoms())
def test_topk_agrees_with_sorting(rows: list[list[float]], random: object) -> None:
    probability = softmax(rows)
    label = np.asarray([random.randrange(7) for _ in rows])  # type: ignore[attr-defined]
    order = np.argsort(-probability, axis=1, kind="stable")
    for k in (1, 5, 7):
        assert hits(probability, label, k).tolist() == [bool(t in o[:k]) for t, o in zip(label, order, strict=True)]


@pytest.mark.parametrize(("right", "low", "high"), [
    ([1.0], 0.025, 1.0), ([0.0], 0.0, 0.975), ([1.0] * 20, 0.8316, 1.0), ([0.0] * 20, 0.0, 0.1684),
])  # fmt: skip
def test_equal_answers_have_the_exact_interval_and_not_one_of_no_width(
    right: list[float], low: float, high: float
) -> None:
    interval = metrics.share_interval(right, 200)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    mixed = [1.0, 0.0, 1.0, 1.0]
    assert metrics.share_interval(mixed, 200) == metrics.bootstrap(mixed, 200)


def test_an_evaluation_that_can_read_nothing_has_no_score_whatever_its_budget() -> None:
    tests = TestSet(["a", "b"], ["a.mp4", "b.mp4"], [0, 1], {})
    with pytest.raises(EverestError, match=r"none of 2 test videos can be read \(a: truncated\)"):
        within_budget([Answer(None, "truncated"), Answer(None, "truncated")], tests, 1.0, "small")
