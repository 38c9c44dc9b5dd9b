"""Frozen probes: one pass through a frozen encoder, several heads, each with its own learning rate.

As in V-JEPA's evaluations, the learning rate is chosen on the validation split among several trained at once;
the published model carries the head that won.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

#: Factors on the base learning rate, one head each.
LR_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


class Probes(nn.Module):
    """A classifier's frozen encoder under a copy of its trainable parts for each factor of the learning rate.

    The trainable parts are pool, norm and head. The classifier offers `forward_features`, `blocks`, `pool`, `fc_norm`,
    `fc_drop` and `head`.
    """

    def __init__(self, classifier: Any, factors: tuple[float, ...] = LR_FACTORS) -> None:
        super().__init__()
        self.factors = factors
        self.classifier = classifier
        classifier.freeze_encoder()
        # One list entry for each factor; the classifier's own head serves as the mould and stays out of the
        # optimizer.
        self.heads = nn.ModuleList(copy.deepcopy(_trainable(classifier)) for _ in factors)
        _trainable(classifier).requires_grad_(False)
        classifier.blocks.register_forward_hook(self._keep)
        self._encoded: tuple[torch.Tensor, torch.Tensor | None]
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self.chosen: torch.Tensor

    def forward(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """Logits [heads, B, classes]."""
        with torch.no_grad():
            self.classifier.forward_features(clip_BCTHW)
        return torch.stack([_logits(head, *self._encoded) for head in self.heads])

    def _keep(self, _blocks: nn.Module, inputs: Any, tokens_BKD: torch.Tensor) -> None:
        """What the blocks gave, [B, K, D], and which tokens are real where the count differs by clip."""
        self._encoded = (tokens_BKD, inputs[1] if len(inputs) > 1 else None)

    def lr_scales(self) -> dict[str, float]:
        """Parameter prefix -> factor."""
        return {f"heads.{i}.": factor for i, factor in enumerate(self.factors)}

    def winner(self) -> nn.Module:
        """The classifier with the head that `chosen` names in place."""
        _trainable(self.classifier).load_state_dict(self.heads[int(self.chosen)].state_dict())
        classifier: nn.Module = self.classifier
        return classifier


def _trainable(classifier: Any) -> nn.ModuleDict:
    parts = {"fc_norm": classifier.fc_norm, "fc_drop": classifier.fc_drop, "head": classifier.head}
    if classifier.pool is not None:
        parts["pool"] = classifier.pool
    return nn.ModuleDict(parts)


def _logits(head: Any, tokens_BKD: torch.Tensor, valid_BK: torch.Tensor | None) -> torch.Tensor:
    if "pool" in head:
        pooled_BD = head["pool"](tokens_BKD, valid_BK)
    elif valid_BK is None:
        pooled_BD = tokens_BKD.mean(dim=1)
    else:
        pooled_BD = (tokens_BKD * valid_BK[..., None]).sum(dim=1) / valid_BK.sum(dim=1, keepdim=True)
    logits: torch.Tensor = head["head"](head["fc_drop"](head["fc_norm"](pooled_BD)))
    return logits
