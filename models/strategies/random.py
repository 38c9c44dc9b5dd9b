"""Random masking: a uniform subset is visible, all other tokens are reconstructed."""

from __future__ import annotations

from torch import Tensor

from models.selection import Budget, Grid, TokenSplit, floor_share
from models.strategies.base import Strategy


def random_budget(grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """The visible share, rounded down; all others are reconstructed."""
    visible = floor_share(visible_ratio, grid.tokens)
    return Budget(visible, grid.tokens - visible)


def random_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Shuffle all tokens and show the first."""
    shuffled_BN = noise_BN.argsort(dim=1)
    return TokenSplit(shuffled_BN[:, : budget.visible], shuffled_BN[:, budget.visible :])


STRATEGY = Strategy(
    name="random",
    sentence="shows a uniform random subset of the tokens and rebuilds all others",
    source="MAE, He et al., CVPR 2022 (arXiv 2111.06377); for video Feichtenhofer et al., arXiv 2205.09113",
    ratios=(1.0, 0.1),
    split=random_split,
    budget=random_budget,
)
