"""Information-intensive frame selection: which time slots of a longer window are worth seeing.

Pure functions over distance maps (METHOD section 3), so that choosing online (maps of the live embedding) and from the
cache (maps stored once per video) is the same code and gives the same choice for the same maps.

Shapes: B clips, A candidate slots, L places, S chosen slots, D width, P pixel values of a tubelet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import ceil_share, floor_share


def num_candidates(num_slots: int, oversample: float) -> int:
    """Slots to draw `num_slots` from: `ceil(oversample * S)`, 12 for the paper's 8 slots and 1.5."""
    if oversample < 1:
        raise ValueError(f"oversample = {oversample}, expected at least 1. Cure: 1.5 is the paper's best.")
    return ceil_share(oversample, num_slots)


def slot_counts(distance_BAL: Tensor, keep_ratio: float) -> Tensor:
    """Kept tokens of each candidate slot [B, A] when the tokens of all compete for a share of `keep_ratio`.

    The first slot takes the second's distances whatever its own row holds: in a window cut from a stored map
    that row is the distance to a frame outside the window.
    """
    if distance_BAL.ndim != 3 or distance_BAL.shape[1] < 2:
        raise ValueError(
            f"distance maps of shape {tuple(distance_BAL.shape)}, expected [clips, slots, places] with at least 2 "
            "slots. Cure: add the clip dimension, or use a longer window."
        )
    score_BAL = torch.cat([distance_BAL[:, 1:2], distance_BAL[:, 1:]], dim=1).float()
    _, slots, places = score_BAL.shape
    num_keep = max(1, floor_share(keep_ratio, slots * places))
    kept = score_BAL.flatten(1).topk(num_keep, dim=1, sorted=False)
    counts_BA = torch.zeros(score_BAL.shape[:2], dtype=torch.long, device=score_BAL.device)
    # Tokens that do not move at all tie; counting them would favour whichever slot the sort returns first.
    return counts_BA.scatter_add(1, kept.indices // places, (kept.values > 0).long())


def draw_slots(counts_BA: Tensor, num_slots: int, noise_BA: Tensor) -> Tensor:
    """Draw `num_slots` slots [B, S], sorted by time, without replacement and in proportion to their counts.

    An exponential race: slot i arrives at time `Exp(1) / c_i`, the first S to arrive are drawn. Its order of
    arrival is exactly successive drawing without replacement. Slots with count 0 start after all others, so
    they top up uniformly when fewer than S have tokens. `noise_BA` is uniform in [0, 1).
    """
    if not 1 <= num_slots <= counts_BA.shape[1]:
        raise ValueError(
            f"{num_slots} slots wanted of {counts_BA.shape[1]} candidates. Cure: an oversample of at least 1."
        )
    if noise_BA.shape != counts_BA.shape:
        raise ValueError(
            f"noise of shape {tuple(noise_BA.shape)}, expected {tuple(counts_BA.shape)}: one number per candidate slot."
        )
    # log1p(-u) with u in [0, 1) is finite; in double the longest wait is 37, far below the late start of
    # 1000.
    wait_BA = -torch.log1p(-noise_BA.double())
    arrival_BA = torch.where(counts_BA > 0, wait_BA / counts_BA.clamp(min=1), 1000 + wait_BA)
    return arrival_BA.topk(num_slots, dim=1, largest=False).indices.sort(dim=1).values


def choose_slots(distance_BAL: Tensor, num_slots: int, keep_ratio: float, noise_BA: Tensor) -> Tensor:
    """The chosen slots [B, S], sorted by time, of candidates' distance maps (METHOD section 3)."""
    return draw_slots(slot_counts(distance_BAL, keep_ratio), num_slots, noise_BA)


def slot_frames(slots_BS: Tensor, tubelet: int = 2) -> Tensor:
    """Frame indices [B, S*tubelet] of slots: the frames of a slot stay together."""
    frame_BST = slots_BS[..., None] * tubelet + torch.arange(tubelet, device=slots_BS.device)
    return frame_BST.flatten(1)
