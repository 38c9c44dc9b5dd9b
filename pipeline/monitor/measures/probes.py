"""What frozen features tell of the classes: nearest neighbours and a ridge regression in closed form. Float64.

Both give each clip a number for each class, the higher the likelier; `pipeline.monitor.measures.scores` counts what is
right. A clip may have one class or several: each class is asked for by itself, with it or without it. Nothing is tuned
on the clips that are scored: the ridge's strength is chosen by cross-validation among those that it is fitted on, which
also says how well it does on clips that the pre-training has seen.

Shapes: V clips to fit on, W clips to score, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import Ints
from pipeline.multilabel.labels import Truth

Features = npt.NDArray[np.float64]

#: Neighbours and temperature of DINO's evaluation (arXiv 2104.14294, section 4.1 and its code).
NEIGHBOURS, TEMPERATURE = 20, 0.07
#: Ridge strengths that are tried, as shares of the mean eigenvalue of the features' covariance.
STRENGTHS = tuple(10.0**power for power in range(-6, 3))
FOLDS = 5


@dataclass(frozen=True)
class RidgeGuess:
    """What the ridge probe says of the scored clips [W, K], and of those that it is fitted on [V, K].

    The latter by cross-validation: each clip is judged by a probe that was fitted without it.
    """

    scored_WK: Features
    fitted_VK: Features


def knn_guess(fit_VD: Features, truth_VK: Truth, score_WD: Features) -> Features:
    """For each class, its part of the votes of the 20 most similar clips (cosine) [W, K].

    A vote weighs exp(similarity / 0.07), as in DINO, and is for every class that the neighbour has.
    """
    similarity_WV = _unit(score_WD) @ _unit(fit_VD).T
    count = min(NEIGHBOURS, len(fit_VD))
    nearest_WC = np.argsort(-similarity_WV, axis=1, kind="stable")[:, :count]
    weight_WC = np.exp((np.take_along_axis(similarity_WV, nearest_WC, axis=1) - 1) / TEMPERATURE)
    votes_WK = np.zeros((len(score_WD), truth_VK.shape[1]))
    for place in range(count):
        votes_WK += weight_WC[:, place, None] * truth_VK[nearest_WC[:, place]]
    return np.asarray(votes_WK / weight_WC.sum(axis=1, keepdims=True))


def ridge_guess(fit_VD: Features, truth_VK: Truth, score_WD: Features) -> RidgeGuess:
    """A linear regression to one column a class (one against the rest), with a penalty, over standardised features.

    The strength of the penalty is the one with the least squared error, all classes together, in five-fold
    cross-validation; a fold has its share of each class, so that what is left out does not change what is frequent.
    """
    target_VK = truth_VK.astype(np.float64)
    fold_V = _folds(truth_VK)
    guess_SVK = np.zeros((len(STRENGTHS), *target_VK.shape))
    for fold in np.unique(fold_V):
        out_V = fold_V == fold
        model = _Ridge(fit_VD[~out_V], target_VK[~out_V])
        guess_SVK[:, out_V] = [model(fit_VD[out_V], strength) for strength in STRENGTHS]
    best = int(((guess_SVK - target_VK) ** 2).mean(axis=(1, 2)).argmin())
    return RidgeGuess(_Ridge(fit_VD, target_VK)(score_WD, STRENGTHS[best]), guess_SVK[best])


class _Ridge:
    """Ridge regressions of all strengths on the same clips: one singular value decomposition."""

    def __init__(self, x_VD: Features, target_VK: Features) -> None:
        self._mean_D, deviation_D = x_VD.mean(axis=0), x_VD.std(axis=0)
        # What does not vary says nothing, whatever it is elsewhere.
        self._scale_D = np.where(deviation_D > 1e-12 * np.abs(self._mean_D), deviation_D, np.inf)
        self._offset_K = target_VK.mean(axis=0)
        u_VM, self._singular_M, self._v_MD = np.linalg.svd((x_VD - self._mean_D) / self._scale_D, full_matrices=False)
        self._projected_MK = u_VM.T @ (target_VK - self._offset_K)
        self._unit = max(float((self._singular_M**2).sum()) / x_VD.shape[1], np.finfo(np.float64).tiny)

    def __call__(self, x_WD: Features, strength: float) -> Features:
        shrunk_M1 = (self._singular_M / (self._singular_M**2 + strength * self._unit))[:, None]
        weight_DK = self._v_MD.T @ (shrunk_M1 * self._projected_MK)
        return np.asarray((x_WD - self._mean_D) / self._scale_D @ weight_DK + self._offset_K)


def _folds(truth_VK: Truth) -> Ints:
    """A fold for each clip: dealt out in turn, those with the same classes one after another."""
    _, group_V = np.unique(truth_VK, axis=0, return_inverse=True)
    fold_V = np.empty(len(truth_VK), dtype=np.int64)
    fold_V[np.argsort(group_V.reshape(-1), kind="stable")] = np.arange(len(truth_VK)) % FOLDS
    return fold_V


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float64).tiny))
