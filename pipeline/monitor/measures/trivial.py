"""What predictors that know nothing reach on the tokens that the decoder has to predict.

Shapes: B clips, N tokens, V visible ones, R to reconstruct, P values of a tubelet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Grid
from models.tokens import take


def mean_loss(target_BRP: Tensor) -> Tensor:
    """The loss [B] of predicting each token's own mean: 0 where a target's channels have mean 0.

    It is 511/512 where no token is of one colour (deviations are unbiased, over 512 pixels), less where some are.
    """
    return target_BRP.float().square().mean(dim=(1, 2))


def copy_loss(shown_BVP: Tensor, asked_BRP: Tensor, visible_BV: Tensor, reconstruct_BR: Tensor, grid: Grid) -> Tensor:
    """The loss [B] of predicting each token as the nearest visible one: the first of those equally near.

    Args:
        shown_BVP, asked_BRP: normalised targets of what is shown and of what is asked for.
        visible_BV, reconstruct_BR: their flat indices.
    """
    copied_BRP = take(shown_BVP, nearest_visible(visible_BV, reconstruct_BR, grid))
    return (copied_BRP.float() - asked_BRP.float()).square().mean(dim=(1, 2))


def nearest_visible(visible_BV: Tensor, reconstruct_BR: Tensor, grid: Grid) -> Tensor:
    """For each token to reconstruct the place in `visible_BV` of the one that is nearest on the grid: [B, R].

    Distances are Euclid's over (slot, row, column), each a step of 1; of equally near ones the lowest index counts.
    """
    order_BV = visible_BV.argsort(dim=1)
    asked_BR3, shown_BV3 = _places(reconstruct_BR, grid), _places(visible_BV.gather(1, order_BV), grid)
    distance_BRV = (asked_BR3[:, :, None] - shown_BV3[:, None]).square().sum(dim=3)
    nearest_BR: Tensor = order_BV.gather(1, distance_BRV.argmin(dim=2))
    return nearest_BR


def _places(index_BK: Tensor, grid: Grid) -> Tensor:
    """Slot, row and column of flat indices [B, K, 3], int64 (16 bits would do, and are slower)."""
    place_BK = index_BK % grid.places
    return torch.stack([index_BK // grid.places, place_BK // grid.width, place_BK % grid.width], dim=2)
