"""How much of its room a set of features uses: rank, deviation, uniformity. Float64, no labels.

Shapes: V clips, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]

#: Added to each share of the singular values, as in RankMe's equation 1.
EPSILON = 1e-7
#: Clips whose pairs are looked at for uniformity: 2,000 have 2 million pairs.
MOST_PAIRED = 2000


def rank_me(features_VD: Features) -> float:
    """RankMe (arXiv 2210.02885, equation 1): the exponential of the entropy of the singular values' shares.

    From 1, where all features point one way, to the smaller of V and D.
    """
    values_K = np.linalg.svd(features_VD, compute_uv=False)
    share_K = values_K / max(float(values_K.sum()), np.finfo(np.float64).tiny) + EPSILON
    return float(np.exp(-(share_K * np.log(share_K)).sum()))


def deviation(features_VD: Features) -> float:
    """The features' standard deviation over clips after each was brought to length 1, times sqrt(D): mean over D.

    1 where directions are spread evenly, 0 where all clips have one feature (SimSiam, arXiv 2011.10566, section 4.1).
    """
    unit_VD = _unit(features_VD)
    return float(unit_VD.std(axis=0).mean() * np.sqrt(unit_VD.shape[1]))


def uniformity(features_VD: Features) -> float:
    """Uniformity (arXiv 2005.10242, section 4.1.2, t = 2): log of the mean over pairs of exp(-2 |u - v|^2).

    0 where all clips have one feature; the lower, the more evenly features lie on the sphere, down to about -4.
    """
    unit_VD = _unit(features_VD[:: -(-len(features_VD) // MOST_PAIRED)])
    first, second = np.triu_indices(len(unit_VD), 1)
    squared = 2 - 2 * (unit_VD @ unit_VD.T)[first, second]
    return float(np.log(np.exp(-2 * squared).mean()))


def _unit(features_VD: Features) -> Features:
    length_V1 = np.linalg.norm(features_VD, axis=1, keepdims=True)
    return np.asarray(features_VD / np.maximum(length_V1, np.finfo(np.float64).tiny))
