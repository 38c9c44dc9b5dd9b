"""Reliability, temperatures, and which videos are shown, against numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.calibration import (
    COLDEST,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    tempered,
)
from pipeline.evaluation.examples import confident_errors, doubtful_hits
from pipeline.evaluation.metrics import calibration_error, softmax, wilson


def drawn(videos: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, their probabilities, and labels that are drawn from these: a calibrated model."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (videos, classes)).astype(np.float32)
    probability = softmax(logits)
    label = (probability.cumsum(axis=1) < random.random((videos, 1))).sum(axis=1).clip(max=classes - 1)
    return logits, probability, label


@pytest.mark.parametrize("overdone", [0.5, 1.0, 2.0])
def test_the_fitted_temperature_undoes_what_logits_were_multiplied_with(overdone: float) -> None:
    logits, probability, label = drawn(20_000, 6)
    probabilities = softmax(overdone * logits)
    temperature = fit_temperature(probabilities, label)
    assert temperature == pytest.approx(overdone, rel=0.03)
    assert tempered(probabilities, overdone) == pytest.approx(probability, abs=1e-5)
    after = tempered(probabilities, temperature)
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1)).all(), "answers stay"
    assert negative_log_likelihood(after, label) <= negative_log_likelihood(probabilities, label) + 1e-12
    assert calibration_error(after, label) < 0.012


def test_a_temperature_is_the_best_of_all() -> None:
    _, probability, label = drawn(3000, 4, seed=5)
    best = negative_log_likelihood(tempered(probability, fit_temperature(probability, label)), label)
    assert best <= min(negative_log_likelihood(tempered(probability, t), label) for t in np.linspace(0.3, 3, 28)) + 1e-4


@pytest.mark.parametrize(("videos", "confidence"), [(10, 11 / 12), (20, 21 / 22), (200, 201 / 202)])
def test_a_model_that_was_right_on_all_of_few_videos_is_not_called_infallible(videos: int, confidence: float) -> None:
    label = np.arange(videos) % 4
    sure = np.full((videos, 4), 0.1) + 0.6 * np.eye(4)[label]
    after = tempered(sure, fit_temperature(sure, label))
    assert after.max(axis=1) == pytest.approx(confidence, abs=1e-6)
    assert fit_temperature(np.full((4, 2), 0.5) + 1e-9, [0, 1, 0, 1]) >= COLDEST


def test_what_cannot_be_tempered_is_refused() -> None:
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert np.isfinite(negative_log_likelihood([[1.0, 0.0]], [1]))
    with pytest.raises(ValueError, match="no videos to fit"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="expected above 0"):
        tempered(sure, 0.0)


def test_the_bins_hold_every_video_once_and_make_up_the_calibration_error() -> None:
    _, probability, label = drawn(500, 5, seed=2)
    bins = reliability(softmax(2 * np.log(probability)), label)
    assert sum(one.videos for one in bins) == 500
    assert all(one.low <= one.confidence <= one.high and one.interval.low < one.accuracy + 1e-9 for one in bins)
    error = sum(one.videos / 500 * abs(one.accuracy - one.confidence) for one in bins)
    assert error == pytest.approx(calibration_error(softmax(2 * np.log(probability)), label))
    assert reliability([[1.0, 0.0]], [0])[0].high == 1.0


def test_wilsons_interval_is_that_of_the_textbook_and_has_a_width_at_the_ends() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="0 answers have no share"):
        wilson(0, 0)


def test_errors_come_by_falling_confidence_and_hits_by_rising() -> None:
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.55, 0.45], [0.2, 0.8]])
    label = np.array([1, 0, 0, 0, 1])
    ids = list("abcde")
    assert [one.video_id for one in confident_errors(ids, probability, label)] == ["a", "c", "b"]
    assert [one.video_id for one in confident_errors(ids, probability, label, most=1)] == ["a"]
    hits = doubtful_hits(ids, probability, label)
    assert [(one.video_id, one.confidence) for one in hits] == [("d", 0.55), ("e", 0.8)]
    assert confident_errors(ids, probability, label)[0].true_probability == 0.1
    assert doubtful_hits(ids[:1], probability[:1], label[:1]) == []
