"""Which tokens are worth the compute: redundancy-robust (ReRo) selection and its baselines (METHOD section
2).

Pure functions over indices. Every strategy has one interface: scores, noise, grid and budget in, a
`TokenSplit` out; nothing waits for the device, and equal noise gives equal indices.

Shapes: B clips, S time slots, L places of a slot, N = S*L tokens (time-major), D width,
K kept tokens = V visible to the encoder + R reconstructed by the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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
    """Flat token indices. With a per-clip budget rows are padded and `*_valid` (True = real token) says where."""

    visible_BV: Tensor
    reconstruct_BR: Tensor
    visible_valid_BV: Tensor | None = None
    reconstruct_valid_BR: Tensor | None = None


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


def token_budget(strategy: str, grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """Token counts of a pre-training strategy (16 frames at 224 px: everest 156 + 314, tube 160 + 1408).

    `tube` and `random` reconstruct all that is hidden and do not use `keep_ratio`.
    Raises ValueError when the ratios leave nothing to show or nothing to reconstruct.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy = {strategy!r}, expected one of {', '.join(STRATEGIES)}. Cure: choose one of them.")
    if not (0 < visible_ratio <= 1 and 0 < keep_ratio <= 1):
        raise ValueError(
            f"keep_ratio = {keep_ratio}, visible_ratio = {visible_ratio}: both are shares of all tokens, above 0 and "
            "at most 1. Cure: paper values 0.3 and 0.1 (EVEREST's own flags name what is dropped, ours what is kept)."
        )
    kept = floor_share(keep_ratio, grid.tokens)
    if strategy in ("tube", "running_cell"):
        visible = grid.slots * ceil_share(visible_ratio, grid.places)
    else:
        visible = floor_share(visible_ratio, grid.tokens)
    total = grid.tokens if strategy in ("tube", "random") else kept
    if visible < 1 or total <= visible:
        raise ValueError(
            f"strategy {strategy!r} with keep_ratio = {keep_ratio}, visible_ratio = {visible_ratio} on "
            f"{grid.slots}x{grid.height}x{grid.width} = {grid.tokens} tokens shows {visible} and leaves "
            f"{total - visible} to reconstruct; both must be positive. Cure: keep_ratio above visible_ratio "
            "(paper: 0.3 and 0.1), or a larger clip."
        )
    return Budget(visible, total - visible)


def top_tokens(scores_BN: Tensor, num_keep: int) -> Tensor:
    """Indices [B, K] of the `num_keep` highest scores, as fine-tuning and testing keep them (no shuffle)."""
    if not 1 <= num_keep <= scores_BN.shape[1]:
        raise ValueError(
            f"num_keep = {num_keep} of {scores_BN.shape[1]} tokens, expected 1 to {scores_BN.shape[1]}. "
            "Cure: a keep_ratio in (0, 1] that leaves at least one token."
        )
    return scores_BN.topk(num_keep, dim=1, sorted=False).indices


def everest_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Keep the highest scores, shuffle those, show the first, reconstruct the others; the rest is dropped."""
    kept_BK = top_tokens(scores_BN, budget.visible + budget.reconstruct)
    order_BK = noise_BN.gather(1, kept_BK).argsort(dim=1)
    shuffled_BK = kept_BK.gather(1, order_BK)
    return TokenSplit(shuffled_BK[:, : budget.visible], shuffled_BK[:, budget.visible :])


def random_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """MAE: a uniform subset is visible, all others are reconstructed."""
    shuffled_BN = noise_BN.argsort(dim=1)
    return TokenSplit(shuffled_BN[:, : budget.visible], shuffled_BN[:, budget.visible :])


def tube_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """VideoMAE: one random set of places is visible in every slot, all other tokens are reconstructed."""
    place_BL = noise_BN[:, : grid.places].argsort(dim=1)
    starts_S1 = torch.arange(grid.slots, device=noise_BN.device)[:, None] * grid.places
    index_BSL = place_BL[:, None, :] + starts_S1
    per_slot = budget.visible // grid.slots
    return TokenSplit(index_BSL[:, :, :per_slot].flatten(1), index_BSL[:, :, per_slot:].flatten(1))


def running_cell_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Tube for the encoder; the decoder reconstructs cells of 2x2 places whose chosen corner runs on with
    time.

    Corners are taken in the order in which they come round (from a random start per clip), so a share of 1/2
    of the tokens is two corners of every cell, as in MAR and VideoMAE v2; what the encoder sees is skipped
    and replaced by the next corner, so that counts are exact.
    """
    visible_BV = tube_split(scores_BN, noise_BN, grid, budget).visible_BV
    slot_S, row_H, column_W = (torch.arange(size, device=noise_BN.device) for size in grid)
    clockwise_HW = row_H[:, None] % 2 * 3 + column_W % 2 * (1 - row_H[:, None] % 2 * 2)
    corner_N = (clockwise_HW[None] - slot_S[:, None, None]).flatten()
    start_B1 = (noise_BN[:, -1:] * 4).long()
    turn_BN = (corner_N + start_B1) % 4 + noise_BN
    turn_BN = turn_BN.scatter(1, visible_BV, torch.inf)
    return TokenSplit(visible_BV, turn_BN.topk(budget.reconstruct, dim=1, largest=False, sorted=False).indices)


Strategy = Callable[[Tensor, Tensor, Grid, Budget], TokenSplit]
STRATEGIES: dict[str, Strategy] = {
    "everest": everest_split,
    "tube": tube_split,
    "random": random_split,
    "running_cell": running_cell_split,
}
#: Strategies that read the scores; the others get noise in their place.
SCORED = frozenset({"everest"})
