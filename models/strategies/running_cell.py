"""Running cells: tubes for the encoder; the decoder rebuilds, of each cell, the corner whose turn it is."""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Budget, Grid, TokenSplit, floor_share
from models.strategies.base import Strategy
from models.strategies.tube import tube_split, tube_visible


def running_cell_budget(grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """Whole tubes are shown; the rest of the kept share is reconstructed."""
    visible = tube_visible(grid, visible_ratio)
    return Budget(visible, floor_share(keep_ratio, grid.tokens) - visible)


def running_cell_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Show tubes and rebuild the corners of each cell of 2x2 places in the order in which they come round.

    The round begins at random for each clip, so a share of 1/2 of the tokens is two corners of every cell, as in MAR
    and VideoMAE v2; what the encoder sees is skipped and replaced by the next corner, so that counts are exact.
    """
    visible_BV = tube_split(scores_BN, noise_BN, grid, budget).visible_BV
    slot_S, row_H, column_W = (torch.arange(size, device=noise_BN.device) for size in grid)
    clockwise_HW = row_H[:, None] % 2 * 3 + column_W % 2 * (1 - row_H[:, None] % 2 * 2)
    corner_N = (clockwise_HW[None] - slot_S[:, None, None]).flatten()
    start_B1 = (noise_BN[:, -1:] * 4).long()
    turn_BN = (corner_N + start_B1) % 4 + noise_BN
    turn_BN = turn_BN.scatter(1, visible_BV, torch.inf)
    return TokenSplit(visible_BV, turn_BN.topk(budget.reconstruct, dim=1, largest=False, sorted=False).indices)


STRATEGY = Strategy(
    name="running_cell",
    sentence="shows tubes, and rebuilds of every cell of 2x2 places only the corners whose turn it is",
    source="MAR, Qing et al., 2022 (arXiv 2207.11660); VideoMAE v2, Wang et al., CVPR 2023 (arXiv 2303.16727)",
    ratios=(0.5, 0.1),
    uses_keep_ratio=True,
    split=running_cell_split,
    budget=running_cell_budget,
)
