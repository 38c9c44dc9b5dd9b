"""V-JEPA's 3-D multi-block masks: large blocks of places are hidden in all slots, and what they leave is shown.

Half of the clips get the short-range mask (8 blocks of 0.15 of a slot's places), half the long-range one (2 blocks of
0.7), both with aspect ratios from 0.75 to 1.5 and spanning all slots.

Numbers checked against the authors' code (github.com/facebookresearch/jepa: configs/pretrain/vitl16.yaml,
src/masks/multiblock3d.py); not checked against the sections of arXiv 2404.08471. Ours differs: V-JEPA masks every clip
both ways in one step, draws one aspect ratio for all blocks of a batch, cuts a batch to its smallest context, and
predicts features, not pixels. Here every clip shows exactly the budget, and all other tokens are rebuilt: places
outside the blocks are shown first, in random order, then, where the blocks leave too few, places inside them.

Shapes: B clips, M blocks, L places of a slot, H x W places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Budget, Grid, TokenSplit
from models.strategies.base import Strategy
from models.strategies.tube import places_split, tube_budget

#: Number of blocks and the share of a slot's places that each covers.
SHORT_RANGE = (8, 0.15)
LONG_RANGE = (2, 0.7)
#: Height over width of a block.
ASPECT = (0.75, 1.5)


def block_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Order the places outside the blocks before those inside, each at random, and show the first in every slot."""
    hidden_BL = _blocks(noise_BN, grid)
    place_BL = (noise_BN[:, : grid.places] + hidden_BL).argsort(dim=1)
    return places_split(place_BL, grid, budget)


def _blocks(noise_BN: Tensor, grid: Grid) -> Tensor:
    """Which places [B, L] the union of a clip's blocks covers."""
    short_B1L, long_B1L = (
        _union(noise_BN, grid, count, scale, first)
        for (count, scale), first in ((SHORT_RANGE, 1), (LONG_RANGE, 1 + 3 * SHORT_RANGE[0]))
    )
    return torch.where(_uniform(noise_BN, 0, 1) < 0.5, short_B1L, long_B1L)


def _union(noise_BN: Tensor, grid: Grid, count: int, scale: float, first: int) -> Tensor:
    aspect_BM, top_BM, left_BM = (_uniform(noise_BN, first + part * count, count) for part in range(3))
    aspect_BM = ASPECT[0] + aspect_BM * (ASPECT[1] - ASPECT[0])
    area = scale * grid.places
    height_BM = (area * aspect_BM).sqrt().round().clamp(1, grid.height)
    width_BM = (area / aspect_BM).sqrt().round().clamp(1, grid.width)
    rows_BMH = _between((top_BM * (grid.height - height_BM + 1)).floor(), height_BM, grid.height)
    columns_BMW = _between((left_BM * (grid.width - width_BM + 1)).floor(), width_BM, grid.width)
    return (rows_BMH[..., :, None] & columns_BMW[..., None, :]).any(dim=1).flatten(1)


def _between(start_BM: Tensor, length_BM: Tensor, size: int) -> Tensor:
    place = torch.arange(size, device=start_BM.device)
    return (place >= start_BM[..., None]) & (place < (start_BM + length_BM)[..., None])


def _uniform(noise_BN: Tensor, first: int, count: int) -> Tensor:
    """Uniform numbers [B, count] from digits of the noise that the order of places does not depend on."""
    index = (torch.arange(first, first + count, device=noise_BN.device) + 1) % noise_BN.shape[1]
    return (noise_BN[:, noise_BN.shape[1] - 1 - index] * 2**10).frac()


STRATEGY = Strategy(
    name="block",
    sentence="hides large blocks of places in all slots and shows what they leave",
    source="V-JEPA, Bardes et al., 2024 (arXiv 2404.08471)",
    ratios=(1.0, 0.1),
    split=block_split,
    budget=tube_budget,
)
