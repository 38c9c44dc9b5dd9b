"""Tube masking: one random set of places is visible in every slot, all other tokens are reconstructed."""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Budget, Grid, TokenSplit, ceil_share
from models.strategies.base import Strategy


def tube_visible(grid: Grid, visible_ratio: float) -> int:
    """Tokens shown: the same number of places in every slot, rounded up (160 of 1568 at 0.1)."""
    return grid.slots * ceil_share(visible_ratio, grid.places)


def tube_budget(grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """Whole tubes are shown; all other tokens are reconstructed."""
    visible = tube_visible(grid, visible_ratio)
    return Budget(visible, grid.tokens - visible)


def tube_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Shuffle the places of a slot and show the first of them in all slots."""
    return places_split(noise_BN[:, : grid.places].argsort(dim=1), grid, budget)


def places_split(place_BL: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Show the first of each clip's ordered places [B, L] in every slot and rebuild the others."""
    starts_S1 = torch.arange(grid.slots, device=place_BL.device)[:, None] * grid.places
    index_BSL = place_BL[:, None, :] + starts_S1
    per_slot = budget.visible // grid.slots
    return TokenSplit(index_BSL[:, :, :per_slot].flatten(1), index_BSL[:, :, per_slot:].flatten(1))


STRATEGY = Strategy(
    name="tube",
    sentence="shows the same few random places in every slot and rebuilds all others",
    source="VideoMAE, Tong et al., NeurIPS 2022 (arXiv 2203.12602)",
    ratios=(1.0, 0.1),
    split=tube_split,
    budget=tube_budget,
)
