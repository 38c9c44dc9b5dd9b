"""An interval for the mean of bounded numbers that needs no normal distribution: the hedged capital of a bettor.

Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting (J. R. Stat. Soc. B 86, 2024).
Against each candidate mean a bettor stakes a share of his capital on each number being larger, another on its being
smaller; were the candidate true, neither fortune would be expected to grow, and by Ville's inequality the chance that
it ever passes 1/alpha is at most alpha. The candidates whose bettors stay poor are the interval, whatever the
distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Candidates for the mean; the interval is as wide as the grid is coarse, at least.
GRID = 401
#: A bettor never stakes more than this share of what would ruin him.
CAUTION = 0.5


def mean_interval(values: Floats, alpha: float, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """The interval that misses the mean with a chance of at most `alpha`.

    Args:
        values: [N] draws in random order, each within [`low`, `high`].
    """
    x_N = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    count = len(x_N)
    order = np.arange(1, count + 1)
    mean_N = (0.5 + np.cumsum(x_N)) / (order + 1)
    variance_N = (0.25 + np.cumsum((x_N - mean_N) ** 2)) / (order + 1)
    before_N = np.concatenate([[0.25], variance_N[:-1]])  # a stake knows what was drawn before it, and no more
    stake_N = np.sqrt(2 * np.log(2 / alpha) / (count * before_N))
    candidate_M = np.linspace(0, 1, GRID)
    with np.errstate(divide="ignore"):
        up_MN = np.minimum(stake_N, (CAUTION / candidate_M)[:, None])
        down_MN = np.minimum(stake_N, (CAUTION / (1 - candidate_M))[:, None])
    gap_MN = x_N - candidate_M[:, None]
    fortunes = [np.log1p(up_MN * gap_MN).cumsum(axis=1), np.log1p(-down_MN * gap_MN).cumsum(axis=1)]
    richest_M = np.maximum(*fortunes).max(axis=1) + np.log(0.5)
    kept = candidate_M[richest_M < np.log(1 / alpha)]
    if not len(kept):  # between two candidates
        kept = candidate_M[[richest_M.argmin()]]
    step = 1 / (GRID - 1)
    bounds = max(float(kept[0]) - step, 0.0), min(float(kept[-1]) + step, 1.0)
    return low + (high - low) * bounds[0], low + (high - low) * bounds[1]
