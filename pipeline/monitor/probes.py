"""What frozen features tell of the classes: nearest neighbours and a ridge regression in closed form. Float64.

Nothing is tuned on the clips that are scored: the ridge's strength is chosen by leaving one out among those that it is
fitted on, which also says how well it does on clips that the pre-training has seen.

Shapes: V clips to fit on, W clips to score, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import Ints

Features = npt.NDArray[np.float64]

#: Neighbours and temperature of DINO's evaluation (arXiv 2104.14294, section 4.1 and its code).
NEIGHBOURS, TEMPERATURE = 20, 0.07
#: Ridge strengths that are tried, as shares of the mean eigenvalue of the features' covariance.
STRENGTHS = tuple(10.0**power for power in range(-6, 3))


@dataclass(frozen=True)
class RidgeScore:
    """Shares of clips that the ridge probe names rightly: of the scored ones, and leaving one out among the fitted."""

    scored: float
    left_out: float


def knn_score(fit_VD: Features, fit_labels_V: Ints, score_WD: Features, score_labels_W: Ints) -> float:
    """The share of clips whose class has most of the votes of the 20 most similar ones (cosine).

    A vote weighs exp(similarity / 0.07), as in DINO; of equal classes the first counts.
    """
    classes, votes_V = np.unique(fit_labels_V, return_inverse=True)
    similarity_WV = _unit(score_WD) @ _unit(fit_VD).T
    count = min(NEIGHBOURS, len(fit_VD))
    nearest_WC = np.argsort(-similarity_WV, axis=1, kind="stable")[:, :count]
    weight_WC = np.exp((np.take_along_axis(similarity_WV, nearest_WC, axis=1) - 1) / TEMPERATURE)
    votes_WK = np.zeros((len(score_WD), len(classes)))
    for place in range(count):
        np.add.at(votes_WK, (np.arange(len(score_WD)), votes_V[nearest_WC[:, place]]), weight_WC[:, place])
    return float((classes[votes_WK.argmax(axis=1)] == score_labels_W).mean())


def ridge_score(fit_VD: Features, fit_labels_V: Ints, score_WD: Features, score_labels_W: Ints) -> RidgeScore:
    """A linear regression to one column a class, with a penalty, over standardised features.

    Leaving one out takes one eigendecomposition for all strengths (Hastie et al., The Elements of Statistical Learning,
    equation 7.52).
    """
    classes, column_V = np.unique(fit_labels_V, return_inverse=True)
    mean_D, deviation_D = fit_VD.mean(axis=0), fit_VD.std(axis=0)
    scale_D = np.where(deviation_D > 1e-12 * np.abs(mean_D), deviation_D, np.inf)
    x_VD = (fit_VD - mean_D) / scale_D
    target_VK = np.eye(len(classes))[column_V]
    offset_K = target_VK.mean(axis=0)
    u_VM, singular_M, v_MD = np.linalg.svd(x_VD, full_matrices=False)
    square_M = singular_M**2
    unit = max(float(square_M.sum()) / fit_VD.shape[1], np.finfo(np.float64).tiny)
    projected_MK = u_VM.T @ (target_VK - offset_K)
    best: tuple[float, float, npt.NDArray[np.float64]] | None = None
    for strength in STRENGTHS:
        shrink_M = square_M / (square_M + strength * unit)
        fitted_VK = u_VM @ (shrink_M[:, None] * projected_MK)
        leverage_V1 = ((u_VM**2) @ shrink_M)[:, None] + 1 / len(fit_VD)
        left_out_VK = target_VK - (target_VK - offset_K - fitted_VK) / np.maximum(1 - leverage_V1, 1e-12)
        error = float(((target_VK - left_out_VK) ** 2).mean())
        if best is None or error < best[0]:
            right = float((left_out_VK.argmax(axis=1) == column_V).mean())
            weight_DK = v_MD.T @ ((singular_M / (square_M + strength * unit))[:, None] * projected_MK)
            best = error, right, weight_DK
    assert best is not None, "there are strengths"
    guess_W = ((score_WD - mean_D) / scale_D @ best[2] + offset_K).argmax(axis=1)
    return RidgeScore(float((classes[guess_W] == score_labels_W).mean()), best[1])


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float64).tiny))
