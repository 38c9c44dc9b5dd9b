"""Probes in closed form, against the definition and against another library: of one class a clip, and of several."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.monitor.measures import probes
from pipeline.monitor.measures.probes import knn_guess, ridge_guess
from pipeline.monitor.measures.scores import clip_scores, probe_score

RNG = np.random.default_rng(0)


def clouds(count: int, spread: float, width: int = 24, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre a class, and which class each has."""
    centres = np.random.default_rng(7).normal(size=(classes, width))
    labels = np.arange(count) % classes
    return centres[labels] + RNG.normal(scale=spread, size=(count, width)), np.eye(classes, dtype=bool)[labels]


def mixtures(count: int, spread: float, width: int = 24, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points that are sums of the centres of their classes, each in a share of the clips of its own."""
    centres = np.random.default_rng(7).normal(size=(classes, width))
    truth = RNG.random((count, classes)) < np.linspace(0.15, 0.6, classes)
    truth[np.arange(count), RNG.integers(0, classes, count)] |= ~truth.any(axis=1)
    return truth @ centres + RNG.normal(scale=spread, size=(count, width)), truth


def knn_score(fit: np.ndarray, truth: np.ndarray, score: np.ndarray, asked: np.ndarray) -> float:
    return probe_score(knn_guess(fit, truth, score), asked, several=False)


def ridge_score(fit: np.ndarray, truth: np.ndarray, score: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    guess = ridge_guess(fit, truth, score)
    return probe_score(guess.scored_WK, asked, several=False), probe_score(guess.fitted_VK, truth, several=False)


def weights(distances: np.ndarray) -> np.ndarray:
    return np.exp(-distances / probes.TEMPERATURE)


def test_neighbours_vote_as_in_another_library() -> None:
    (fit, truth), (score, asked) = clouds(120, 2.0), clouds(80, 2.0)
    theirs = KNeighborsClassifier(probes.NEIGHBOURS, weights=weights, metric="cosine", algorithm="brute")
    theirs.fit(fit, truth.argmax(axis=1))
    assert knn_guess(fit, truth, score) == pytest.approx(theirs.predict_proba(score))
    assert knn_score(fit, truth, score, asked) == theirs.score(score, asked.argmax(axis=1))


def test_a_neighbour_votes_for_each_of_its_classes_as_in_another_library() -> None:
    (fit, truth), (score, asked) = mixtures(150, 1.0), mixtures(90, 1.0)
    theirs = KNeighborsClassifier(probes.NEIGHBOURS, weights=weights, metric="cosine", algorithm="brute")
    theirs.fit(fit, truth)
    votes = np.stack([share[:, 1] for share in theirs.predict_proba(score)], axis=1)
    guess = knn_guess(fit, truth, score)
    assert guess == pytest.approx(votes)
    assert probe_score(guess, asked, several=True) == pytest.approx(average_precision_score(asked, votes))


def test_the_ridge_is_that_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.3,))
    (fit, truth), (score, asked) = clouds(60, 3.0, width=6), clouds(200, 3.0, width=6)
    labels = truth.argmax(axis=1)

    def theirs(train: np.ndarray, columns: np.ndarray, other: np.ndarray) -> np.ndarray:
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        x = (train - mean) / deviation
        model = Ridge(alpha=0.3 * float((x**2).sum()) / x.shape[1]).fit(x, np.eye(4)[columns])
        return np.asarray(model.predict((other - mean) / deviation).argmax(axis=1))

    scored, fitted = ridge_score(fit, truth, score, asked)
    assert scored == (theirs(fit, labels, score) == asked.argmax(axis=1)).mean()
    # Those of a class one after another, dealt out in turn: 15 of each.
    fold = np.empty(60, dtype=int)
    fold[np.argsort(-labels, kind="stable")] = np.arange(60) % 5
    right = sum(
        int((theirs(fit[fold != f], labels[fold != f], fit[fold == f]) == labels[fold == f]).sum()) for f in range(5)
    )
    assert fitted == right / 60


def test_the_ridge_of_several_classes_is_one_regression_against_the_rest_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (0.05,))
    (fit, truth), (score, asked) = mixtures(120, 1.0), mixtures(80, 1.0)
    mean, deviation = fit.mean(axis=0), fit.std(axis=0)
    x, other = (fit - mean) / deviation, (score - mean) / deviation
    alpha = 0.05 * float((x**2).sum()) / x.shape[1]
    theirs = np.stack([Ridge(alpha).fit(x, truth[:, k].astype(float)).predict(other) for k in range(4)], axis=1)
    guess = ridge_guess(fit, truth, score)
    assert guess.scored_WK == pytest.approx(theirs)
    assert probe_score(guess.scored_WK, asked, several=True) == pytest.approx(average_precision_score(asked, theirs))


def test_both_name_clear_classes_and_neither_names_noise() -> None:
    (fit, truth), (score, asked) = clouds(160, 0.2), clouds(80, 0.2)
    assert knn_score(fit, truth, score, asked) == 1.0
    assert ridge_score(fit, truth, score, asked) == (1.0, 1.0)
    noise, more = RNG.normal(size=(160, 24)), RNG.normal(size=(400, 24))
    guessed = np.eye(4, dtype=bool)[np.arange(400) % 4]
    scored, fitted = ridge_score(noise, truth, more, guessed)
    assert scored == pytest.approx(0.25, abs=0.09)
    assert fitted == pytest.approx(0.25, abs=0.12)
    assert knn_score(noise, truth, more, guessed) == pytest.approx(0.25, abs=0.09)


def test_several_classes_are_found_where_features_hold_them_and_not_in_noise() -> None:
    (fit, truth), (score, asked) = mixtures(300, 0.2), mixtures(150, 0.2)
    frequent = asked.mean(axis=0).mean()  # what a ranking by chance gives
    assert probe_score(ridge_guess(fit, truth, score).scored_WK, asked, several=True) > 0.99
    assert probe_score(knn_guess(fit, truth, score), asked, several=True) > 0.9
    noise, more = RNG.normal(size=(300, 24)), RNG.normal(size=(150, 24))
    for guess in (ridge_guess(noise, truth, more).scored_WK, knn_guess(noise, truth, more)):
        assert probe_score(guess, asked, several=True) == pytest.approx(frequent, abs=0.12)


def test_the_score_of_a_clip_says_how_high_its_own_classes_rank() -> None:
    guess = np.asarray([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.9, 0.5, 0.1]])
    asked = np.asarray([[True, True, False], [True, False, False], [True, False, True]])
    found = clip_scores(guess, asked, several=True)
    assert found == pytest.approx([1, 1 / 3, (1 + 2 / 3) / 2])
    assert found.mean() == pytest.approx(label_ranking_average_precision_score(asked, guess))
    assert clip_scores(guess, np.eye(3, dtype=bool)[[0, 0, 0]], several=False).tolist() == [1, 0, 1]


def test_a_dead_feature_and_classes_without_clips_do_no_harm() -> None:
    (fit, truth), (score, asked) = clouds(60, 0.2), clouds(40, 0.2)
    fit[:, 0] = score[:, 0] = 3.0
    labels = asked.argmax(axis=1)
    unknown = np.eye(10, dtype=bool)[np.where(labels == 3, 9, labels)]
    wider = np.pad(truth, ((0, 0), (0, 6)))
    assert ridge_score(fit, wider, score, unknown)[0] == pytest.approx(0.75)
    assert knn_score(fit, wider, score, unknown) == pytest.approx(0.75)


def test_fewer_clips_than_neighbours_are_all_asked() -> None:
    fit, truth = clouds(6, 0.1, classes=2)
    assert knn_score(fit, truth, fit, truth) == 1.0
