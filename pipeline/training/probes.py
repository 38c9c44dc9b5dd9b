"""Frozen probes: one pass through a frozen encoder, several heads, each with its own learning rate.

As in V-JEPA's evaluations, the learning rate is chosen on the validation split among several trained at once;
the published model carries the head that won.

Shapes: B clips, C channels, T frames, H x W pixels, K kept tokens, D width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.backbone import KeptTokens
from models.classifier import EverestClassifier, pooled
from pipeline.training.optim import ParameterGroup, parameter_groups

#: Factors on the base learning rate, one head each.
LR_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


class Head(nn.Module):
    """What learns of a classifier with a frozen encoder: pool, norm and linear head."""

    def __init__(self, classifier: EverestClassifier) -> None:
        super().__init__()
        self.fc_norm, self.fc_drop, self.head = classifier.fc_norm, classifier.fc_drop, classifier.head
        self.pool = classifier.pool
        self._exempt = classifier.no_weight_decay()

    def no_weight_decay(self) -> set[str]:
        """The classifier's, whose names are ours: an attentive pool's query."""
        return self._exempt

    def forward(self, tokens_BKD: Tensor, kept: KeptTokens) -> Tensor:
        features_BD = self.fc_norm(pooled(self.pool, tokens_BKD, kept.real, kept))
        logits: Tensor = self.head(self.fc_drop(features_BD))
        return logits


class Probes(nn.Module):
    """A classifier's frozen encoder under a copy of its :class:`Head` for each factor of the learning rate."""

    def __init__(self, classifier: EverestClassifier, factors: tuple[float, ...] = LR_FACTORS) -> None:
        super().__init__()
        self.factors = factors
        self.classifier = classifier
        classifier.freeze_encoder()
        # The classifier's own head is the mould of the others, and learns nothing.
        self.heads = nn.ModuleList(copy.deepcopy(Head(classifier)) for _ in factors)
        Head(classifier).requires_grad_(False)
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self.chosen: Tensor

    def train(self, mode: bool = True) -> Probes:
        """Set the heads to training; the frozen encoder drops no paths, as when it is validated and tested."""
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Logits [heads, B, classes]."""
        with torch.no_grad():
            kept = self.classifier.embed_kept(clip_BCTHW)
            tokens_BKD = self.classifier.blocks(kept.tokens_BKD, kept.real)
        return torch.stack([head(tokens_BKD, kept) for head in self.heads])

    def parameter_groups(self, weight_decay: float) -> list[ParameterGroup]:
        """Groups for AdamW: each head's, with its factor of the learning rate."""
        return [
            {**group, "names": [f"heads.{number}.{name}" for name in group["names"]], "lr_scale": factor}
            for number, (head, factor) in enumerate(zip(self.heads, self.factors, strict=True))
            for group in parameter_groups(head, weight_decay)
        ]

    def winner(self) -> EverestClassifier:
        """The classifier with the head that `chosen` names in place."""
        Head(self.classifier).load_state_dict(self.heads[int(self.chosen)].state_dict())
        return self.classifier
