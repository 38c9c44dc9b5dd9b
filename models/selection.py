"""Redundancy-robust (ReRo) scores, and the words of all masking strategies (METHOD section 2).

Pure functions over indices; nothing waits for the device. The strategies themselves are in `models.strategies`.

Shapes: B clips, S time slots, L places of a slot, N = S*L tokens (time-major), D width,
K kept tokens = V visible to the encoder + R reconstructed by the decoder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.unequal.packed import Rows

#: Ratios count in billionths: whole numbers, which a compiler can trace (it cannot trace `decimal`).
BILLION = 10**9


class Grid(NamedTuple):
    """How a clip falls into tokens: `slots` of time, each `height` x `width` places."""

    slots: int
    height: int
    width: int

    @property
    def places(self) -> int:
        return self.height * self.width

    @property
    def tokens(self) -> int:
        return self.slots * self.places


class Budget(NamedTuple):
    """Numbers of tokens per clip: shown to the encoder, and reconstructed by the decoder."""

    visible: int
    reconstruct: int


class TokenSplit(NamedTuple):
    """Flat token indices. With a per-clip budget they are padded, and rows say which are real."""

    visible_BV: Tensor
    reconstruct_BR: Tensor
    visible_rows: Rows | None = None
    reconstruct_rows: Rows | None = None


def floor_share(ratio: float, count: int) -> int:
    """`floor(ratio * count)` on the decimals as written: 0.29 of 100 is 29, in binary floats it is 28."""
    return round(ratio * BILLION) * count // BILLION


def ceil_share(ratio: float, count: int) -> int:
    """`ceil(ratio * count)` on the decimals as written."""
    return -(-round(ratio * BILLION) * count // BILLION)


def slot_distances(embedded_BSLD: Tensor) -> Tensor:
    """L2 distance of each token to the one before it at the same place: [B, S, L], fp32 also under autocast.

    Slot 0 has no predecessor and takes slot 1's distances. Raises ValueError for a clip of one slot.
    """
    slots = embedded_BSLD.shape[1]
    if slots < 2:
        raise ValueError(
            f"a clip of {slots} slot(s), shape {tuple(embedded_BSLD.shape)}: redundancy is the distance between "
            "neighbouring slots, so at least 2 are needed. Cure: give 4 frames or more (a slot is one tubelet of 2)."
        )
    embedded_BSLD = embedded_BSLD.detach()
    step_BSLD = embedded_BSLD[:, 1:].float() - embedded_BSLD[:, :-1].float()
    distance_BSL = torch.linalg.vector_norm(step_BSLD, dim=-1)
    return torch.cat([distance_BSL[:, :1], distance_BSL], dim=1)


def rero_scores(embedded_BND: Tensor, slots: int) -> Tensor:
    """ReRo scores [B, N] of embedded tokens, before positions are added; no gradient flows (METHOD section 2)."""
    return slot_distances(embedded_BND.unflatten(1, (slots, -1))).flatten(1)


def top_tokens(scores_BN: Tensor, num_keep: int) -> Tensor:
    """Indices [B, K] of the `num_keep` highest scores, as fine-tuning and testing keep them (no shuffle)."""
    if not 1 <= num_keep <= scores_BN.shape[1]:
        raise ValueError(
            f"num_keep = {num_keep} of {scores_BN.shape[1]} tokens, expected 1 to {scores_BN.shape[1]}. "
            "Cure: a keep_ratio in (0, 1] that leaves at least one token."
        )
    return scores_BN.topk(num_keep, dim=1, sorted=False).indices
