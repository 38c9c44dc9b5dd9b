"""The batches of a validation, without a rank that is left behind, and what is summed over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.batch import Batch

if TYPE_CHECKING:
    from pipeline.data.clips.ahead import DeviceLoader
    from pipeline.data.clips.loader import ClipLoader
    from pipeline.distributed.groups import Ranks
    from pipeline.params import ClipParams


def held_out_batches(
    loader: ClipLoader | DeviceLoader,
    ranks: Ranks,
    alive: Callable[[], None],
    sharded: nn.Module | None,
    clip: ClipParams,
) -> Iterator[Batch]:
    """This rank's batches of held-out clips, whose last ones are shared out unevenly.

    Args:
        alive: called at each batch.
        sharded: a model of which all ranks have to make each pass. A rank with fewer batches than the first, which has
            most, makes as many of nothing in the end.
        clip: its frames and resolution.
    """
    for batch in loader.epoch(0):
        alive()
        yield batch
    if sharded is not None:
        nothing = torch.zeros(1, 3, clip.frames, clip.resolution, clip.resolution, device=ranks.device)
        for _ in range(loader.micro_batches(0) - loader.micro_batches(ranks.rank)):
            alive()
            sharded(nothing)


def batch_sums(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Right in the first, right in the first five, sum of losses, clips: [4] float64."""
    five = min(5, logits_BK.shape[1])
    right_B5 = logits_BK.topk(five, dim=1).indices == labels_B[:, None]
    loss = F.cross_entropy(logits_BK, labels_B, reduction="sum")
    count = torch.full_like(loss, len(labels_B))
    return torch.stack([right_B5[:, 0].sum(), right_B5.sum(), loss, count]).double()
