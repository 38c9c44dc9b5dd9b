"""Learning rates as pure functions of the optimizer step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Learning rates in params.yaml are per this many clips (METHOD section 7: lr = base_lr * global_batch /
#: 256).
REFERENCE_BATCH = 256


def scaled_lr(base_lr: float, global_batch: int) -> float:
    """The linear scaling rule; `global_batch` counts clips over all ranks and accumulation steps.

    Repeated augmentation is not counted in the batch.
    """
    return base_lr * global_batch / REFERENCE_BATCH


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `floor`, by step.

    Args:
        peak, floor: learning rates after scaling.
        warmup_steps, total_steps: optimizer steps; `total_steps` includes the warm-up.
    """

    peak: float
    floor: float
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(
        cls,
        base_lr: float,
        min_lr: float,
        global_batch: int,
        warmup_epochs: float,
        epochs: int,
        steps_per_epoch: int,
    ) -> Cosine:
        """Scale both rates by the batch and turn epochs into steps. A warm-up never outlasts the training."""
        total = epochs * steps_per_epoch
        return cls(
            peak=scaled_lr(base_lr, global_batch),
            floor=min(scaled_lr(min_lr, global_batch), scaled_lr(base_lr, global_batch)),
            warmup_steps=min(round(warmup_epochs * steps_per_epoch), max(total - 1, 0)),
            total_steps=total,
        )

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        span = max(self.total_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / span, 1.0)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))
