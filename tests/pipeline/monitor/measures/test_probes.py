"""Probes in closed form, against the definition and against another library."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from pipeline.monitor.measures import probes
from pipeline.monitor.measures.probes import knn_score, ridge_score

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


def test_the_ridge_is_that_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.3,))
    (fit, labels), (score, asked) = clouds(60, 3.0, width=6), clouds(200, 3.0, width=6)

    def theirs(train: np.ndarray, columns: np.ndarray, other: np.ndarray) -> np.ndarray:
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        x = (train - mean) / deviation
        model = Ridge(alpha=0.3 * float((x**2).sum()) / x.shape[1]).fit(x, np.eye(4)[columns])
        return np.asarray(model.predict((other - mean) / deviation).argmax(axis=1))

    ours = ridge_score(fit, labels, score, asked)
    assert ours.scored == (theirs(fit, labels, score) == asked).mean()
    right = 0
    for fold in range(5):
        out = np.arange(60) // 4 % 5 == fold  # one of each class after another
        right += int((theirs(fit[~out], labels[~out], fit[out]) == labels[out]).sum())
    assert ours.fitted == right / 60


def test_both_name_clear_classes_and_neither_names_noise() -> None:
    (fit, fit_labels), (score, labels) = clouds(160, 0.2), clouds(80, 0.2)
    assert knn_score(fit, fit_labels, score, labels) == 1.0
    assert ridge_score(fit, fit_labels, score, labels).scored == 1.0
    noise, more = RNG.normal(size=(160, 24)), RNG.normal(size=(400, 24))
    guessed = np.arange(400) % 4
    assert ridge_score(noise, fit_labels, more, guessed).scored == pytest.approx(0.25, abs=0.09)
    assert ridge_score(noise, fit_labels, more, guessed).fitted == pytest.approx(0.25, abs=0.12)
    assert knn_score(noise, fit_labels, more, guessed) == pytest.approx(0.25, abs=0.09)


def test_a_dead_feature_and_classes_without_clips_do_no_harm() -> None:
    (fit, fit_labels), (score, labels) = clouds(60, 0.2), clouds(40, 0.2)
    fit[:, 0] = score[:, 0] = 3.0
    unknown = np.where(labels == 3, 9, labels)
    assert ridge_score(fit, fit_labels, score, unknown).scored == pytest.approx(0.75)


def test_fewer_clips_than_neighbours_are_all_asked() -> None:
    fit, labels = clouds(6, 0.1, classes=2)
    assert knn_score(fit, labels, fit, labels) == 1.0
