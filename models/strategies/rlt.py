"""Run-length tokens: of a run of equal tokens at one place only the first is kept, and told how long the run is.

A token is equal to the one before it where the last frame of its tubelet differs by no more than a threshold from the
first frame of the tubelet before, as a mean over pixels and colours: all that lies between is then taken for still. The
first slot's tokens always begin a run. A learned embedding of the run's length is added; it is 0 at first, so that
weights that were trained without one can be used as they are.

Checked against the authors' code (github.com/rccchoudhury/rlt, commit 0fc1565: src/models/static_token_utils.py for
the frames compared, the mean and the strict ">"; configs/experiment/train_vit_mae.yaml for 0.1 of pixels normalised as
ours; src/models/vit_helpers.py for the embedding, one row for each length); not checked against the sections of arXiv
2411.05222. Ours differs: the embedding begins at 0 (theirs a normal of 0.02) and is always there (theirs is an option,
off in the published configuration).

Shapes: B clips, S slots, L places, N = S*L tokens, P values of a tubelet in the order (c p0 p1 p2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Grid
from models.strategies.base import Strategy
from models.strategies.none import every_token

#: Mean absolute difference of normalised pixels up to which two tokens count as equal (the authors' `drop_param`).
THRESHOLD = 0.1
#: Frames and pixels of a tubelet.
FRAMES, PIXELS = 2, 16 * 16


def pixel_changes(tubelets_BNP: Tensor, scores_BN: Tensor, grid: Grid) -> Tensor:
    """How much each token differs from the one before it at its place [B, N]; infinitely in the first slot."""
    values_BSLCFX = tubelets_BNP.float().unflatten(2, (-1, FRAMES, PIXELS)).unflatten(1, (grid.slots, grid.places))
    step_BSLCX = values_BSLCFX[:, 1:, ..., -1, :] - values_BSLCFX[:, :-1, ..., 0, :]
    change_BSL = step_BSLCX.abs().mean(dim=(3, 4))
    return torch.cat([torch.full_like(change_BSL[:, :1], torch.inf), change_BSL], dim=1).flatten(1)


def begins_run(scores_BN: Tensor) -> Tensor:
    """Which tokens differ from the one before them."""
    return scores_BN > THRESHOLD


STRATEGY = Strategy(
    name="rlt",
    sentence="drops tokens that equal the one before them and tells the first of a run how long it is",
    source="RLT, Choudhury et al., NeurIPS 2024 (arXiv 2411.05222)",
    finetune_ratio=1.0,
    planned_as="none",
    keep=every_token,
    score=pixel_changes,
    begins=begins_run,
)
