"""Probes in closed form, against the definition and against another library."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from pipeline.monitor import probes
from pipeline.monitor.probes import knn_score, ridge_score

RNG = np.random.default_rng(0)


def clouds(count: int, spread: float, width: int = 24, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre a class."""
    centres = np.random.default_rng(7).normal(size=(classes, width))
    labels = np.arange(count) % classes
    return centres[labels] + RNG.normal(scale=spread, size=(count, width)), labels


def test_neighbours_vote_as_in_another_library() -> None:
    (fit, fit_labels), (score, labels) = clouds(120, 2.0), clouds(80, 2.0)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / probes.TEMPERATURE)

    theirs = KNeighborsClassifier(probes.NEIGHBOURS, weights=weights, metric="cosine", algorithm="brute")
    assert knn_score(fit, fit_labels, score, labels) == theirs.fit(fit, fit_labels).score(score, labels)


def test_leaving_one_out_is_what_refitting_without_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.3,))
    fit, labels = clouds(40, 3.0, width=6)
    x = (fit - fit.mean(axis=0)) / fit.std(axis=0)
    target = np.eye(4)[labels]
    penalty = 0.3 * float((x**2).sum()) / x.shape[1]
    right = 0
    for place in range(40):
        others = np.arange(40) != place
        model = Ridge(alpha=penalty).fit(x[others], target[others])
        right += int(model.predict(x[place : place + 1]).argmax() == labels[place])
    assert ridge_score(fit, labels, fit, labels).left_out == pytest.approx(right / 40, abs=1e-9)


def test_both_name_clear_classes_and_neither_names_noise() -> None:
    (fit, fit_labels), (score, labels) = clouds(160, 0.2), clouds(80, 0.2)
    assert knn_score(fit, fit_labels, score, labels) == 1.0
    assert ridge_score(fit, fit_labels, score, labels).scored == 1.0
    noise, more = RNG.normal(size=(160, 24)), RNG.normal(size=(400, 24))
    guessed = np.arange(400) % 4
    assert ridge_score(noise, fit_labels, more, guessed).scored == pytest.approx(0.25, abs=0.09)
    assert knn_score(noise, fit_labels, more, guessed) == pytest.approx(0.25, abs=0.09)


def test_a_dead_feature_and_classes_without_clips_do_no_harm() -> None:
    (fit, fit_labels), (score, labels) = clouds(60, 0.2), clouds(40, 0.2)
    fit[:, 0] = score[:, 0] = 3.0
    unknown = np.where(labels == 3, 9, labels)
    assert ridge_score(fit, fit_labels, score, unknown).scored == pytest.approx(0.75)


def test_fewer_clips_than_neighbours_are_all_asked() -> None:
    fit, labels = clouds(6, 0.1, classes=2)
    assert knn_score(fit, labels, fit, labels) == 1.0
