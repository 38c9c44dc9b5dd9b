"""EVEREST: keep the tokens that change most, show some, rebuild the others, drop the rest (METHOD section 2)."""

from __future__ import annotations

from torch import Tensor

from models.selection import Budget, Grid, TokenSplit, floor_share, top_tokens
from models.strategies.base import Strategy


def everest_budget(grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """Shares of all tokens, rounded down."""
    visible = floor_share(visible_ratio, grid.tokens)
    return Budget(visible, floor_share(keep_ratio, grid.tokens) - visible)


def everest_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Keep the highest scores, shuffle those, show the first, reconstruct the others; the rest is dropped."""
    kept_BK = top_tokens(scores_BN, budget.visible + budget.reconstruct)
    order_BK = noise_BN.gather(1, kept_BK).argsort(dim=1)
    shuffled_BK = kept_BK.gather(1, order_BK)
    return TokenSplit(shuffled_BK[:, : budget.visible], shuffled_BK[:, budget.visible :])


STRATEGY = Strategy(
    name="everest",
    sentence="keeps the tokens that differ most from the slot before, shows a third of them, rebuilds the others and "
    "never computes the rest",
    source="EVEREST, Hwang et al., ICML 2024 (arXiv 2211.10636)",
    ratios=(0.3, 0.1),
    finetune_ratio=0.6,
    reads_scores=True,
    uses_keep_ratio=True,
    selects_frames=True,
    split=everest_split,
    budget=everest_budget,
    keep=top_tokens,
)
