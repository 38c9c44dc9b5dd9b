"""A budget for each clip: keep the smallest set of tokens that holds a given share of the score.

A busy clip keeps many tokens, a still one few. The models compute on the real tokens alone (`packed`); the host must
know how many each clip has, so this option waits for the device once per forward. The fixed budget never does.

Shapes: B clips, N tokens, K kept (padded) = V visible + R reconstructed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import TokenSplit
from models.unequal.packed import Rows, rows_of


def adaptive_counts(scores_BN: Tensor, share: float, least: int = 2) -> Tensor:
    """Kept tokens of each clip [B]: the fewest (at least `least`) that hold `share` of its score."""
    if not 0 < share <= 1:
        raise ValueError(f"score_share = {share}, expected above 0 and at most 1. Cure: 0.5 keeps half of the motion.")
    if not 1 <= least <= scores_BN.shape[1]:
        raise ValueError(f"{scores_BN.shape[1]} tokens a clip, expected at least {least}. Cure: give a larger clip.")
    sorted_BN = scores_BN.double().sort(dim=1, descending=True).values
    held_BN = sorted_BN.cumsum(dim=1)
    # A token belongs to the set while the ones before it hold less than the share.
    before_BN = held_BN - sorted_BN
    return (before_BN < share * held_BN[:, -1:]).sum(dim=1).clamp(min=least)


def adaptive_tokens(scores_BN: Tensor, share: float) -> tuple[Tensor, Rows]:
    """Kept indices [B, K], padded to the longest clip, and which of them are real, for the classifier."""
    return counted_tokens(scores_BN, adaptive_counts(scores_BN, share, least=1))


def counted_tokens(scores_BN: Tensor, count_B: Tensor) -> tuple[Tensor, Rows]:
    """The `count_B` highest scores of each clip, as `adaptive_tokens` gives them."""
    rows = rows_of(count_B)
    return _ranked(scores_BN, rows.longest), rows


def adaptive_split(scores_BN: Tensor, noise_BN: Tensor, share: float, visible_of_kept: float) -> TokenSplit:
    """Like `everest_split`, each clip with its own count; `visible_of_kept` of it is shown (paper: 1/3)."""
    return counted_split(scores_BN, noise_BN, adaptive_counts(scores_BN, share), visible_of_kept)


def counted_split(scores_BN: Tensor, noise_BN: Tensor, count_B: Tensor, visible_of_kept: float) -> TokenSplit:
    """The `count_B` (at least 2) highest scores of each clip, as `adaptive_split` gives them."""
    visible_B = (count_B * visible_of_kept).long().clamp(min=1).minimum(count_B - 1)
    # In the order of the kept tokens both parts rise too: one order serves all three rows.
    order_B = count_B.argsort(stable=True)
    kept, shown = torch.stack([count_B, visible_B]).index_select(1, order_B).tolist()
    visible = Rows(visible_B, shown, order_B)
    hidden = Rows(count_B - visible_B, [complete - part for complete, part in zip(kept, shown, strict=True)], order_B)
    longest = max(kept)
    kept_BK = _ranked(scores_BN, longest)
    place_K = torch.arange(longest, device=scores_BN.device)
    order_BK = noise_BN.gather(1, kept_BK).masked_fill(place_K >= count_B[:, None], torch.inf).argsort(dim=1)
    shuffled_BK = kept_BK.gather(1, order_BK)
    hidden_place_BR = (visible_B[:, None] + place_K[: hidden.longest]).clamp(max=longest - 1)
    return TokenSplit(shuffled_BK[:, : visible.longest], shuffled_BK.gather(1, hidden_place_BR), visible, hidden)


def _ranked(scores_BN: Tensor, count: int) -> Tensor:
    """The highest scores in order; ties by index, so that a clip's choice does not depend on the padding."""
    return scores_BN.sort(dim=1, descending=True, stable=True).indices[:, :count]


def run_lengths(begins_BN: Tensor, slots: int) -> Tensor:
    """How many slots each token's run lasts [B, N]: up to the next token at its place that begins one."""
    begins_BSL = begins_BN.unflatten(1, (slots, -1))
    slot_S1 = torch.arange(slots, device=begins_BN.device)[:, None]
    start_BSL = torch.where(begins_BSL, slot_S1, slots)
    first_from_BSL = start_BSL.flip(1).cummin(dim=1).values.flip(1)
    next_BSL = torch.cat([first_from_BSL[:, 1:], torch.full_like(start_BSL[:, :1], slots)], dim=1)
    return (next_BSL - slot_S1).flatten(1)


def needed(tubelets_BNP: Tensor | None, strategy: str) -> Tensor:
    """The tubelets that a strategy's own scores are made of.

    Raises:
        ValueError: they were not given.
    """
    if tubelets_BNP is None:
        raise ValueError(f"strategy {strategy!r} scores pixels. Cure: hand the tubelets to `select` too.")
    return tubelets_BNP
