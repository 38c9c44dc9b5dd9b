"""The optimizer as the papers set it: AdamW's groups, learning rates, loss scaling, the average of the parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from pipeline.distributed.groups import like, whole

#: Learning rates in params.yaml are per this many clips (METHOD section 7: lr = base_lr * global_batch / 256).
REFERENCE_BATCH = 256
#: What a loss is scaled by at least, and where nothing is scaled: a gradient that overflows here will at every step.
LOWEST_SCALE = 1.0


class ParameterGroup(TypedDict):
    """Parameters that AdamW treats alike; `lr_scale` is their factor on the learning rate."""

    params: list[nn.Parameter]
    names: list[str]
    weight_decay: float
    lr_scale: float


class ScalerRecord(TypedDict):
    """The loss scale in a checkpoint, and the steps since it changed."""

    scale: float
    clean: float


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[ParameterGroup]:
    """timm's groups of what learns: vectors, biases and what the model exempts do not decay (METHOD section 7).

    Args:
        layer_decay: the lr of layer `id` of the model's `group_matcher` is scaled by `layer_decay ** (depth + 1 - id)`;
            1 turns it off.
    """
    exempt: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    if layer_decay == 1.0:  # few groups are few launches
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(model, weight_decay, exempt, layer_decay=layer_decay)
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = {parameter: place for place, parameter in enumerate(names)}
    groups.sort(key=lambda group: order[group["params"][0]])
    return [
        {
            "params": group["params"],
            "names": [names[parameter] for parameter in group["params"]],
            "weight_decay": group["weight_decay"],
            "lr_scale": group.get("lr_scale", 1.0),
        }
        for group in groups
    ]


def adamw(groups: Sequence[ParameterGroup], betas: Sequence[float], eps: float) -> torch.optim.AdamW:
    """Fused AdamW on CPU and CUDA alike. The learning rate is set before each step by :func:`set_lr`."""
    # lr 0 until the schedule sets it; AdamW leaves "names" and "lr_scale" alone.
    return torch.optim.AdamW([dict(group) for group in groups], lr=0.0, betas=(betas[0], betas[1]), eps=eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def step_unless(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """Update the parameters, or leave them and all moments untouched where `skip` (a scalar tensor) is not 0.

    Fused AdamW reads the flag on the device, so that a non-finite step is refused without a synchronisation.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = skip.to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()


class LossScaler:
    """Dynamic loss scaling for fp16, wholly on the device; scale 1 and inert for other precisions.

    The scale halves when a gradient overflows and doubles after `interval` clean steps (the rule of
    Micikevicius et al., Mixed Precision Training, 2018).
    """

    def __init__(self, enabled: bool, device: torch.device, initial: float = 65536.0, interval: int = 2000) -> None:
        self.enabled = enabled
        self.interval = interval
        self.scale = torch.full((), initial if enabled else 1.0, device=device)
        self.clean = torch.zeros((), device=device)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * self.scale if self.enabled else loss

    def unscale(self, gradients: list[torch.Tensor]) -> None:
        if self.enabled and gradients:
            torch._foreach_mul_(gradients, 1.0 / self.scale)

    def update(self, overflow: torch.Tensor) -> None:
        """`overflow`: scalar, not 0 where the step was refused."""
        if not self.enabled:
            return
        bad = overflow > 0
        self.clean = torch.where(bad, torch.zeros_like(self.clean), self.clean + 1)
        grow = self.clean >= self.interval
        factor = torch.where(bad, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale = (self.scale * factor).clamp(min=LOWEST_SCALE)
        self.clean = torch.where(grow, torch.zeros_like(self.clean), self.clean)

    def state(self) -> ScalerRecord:
        return {"scale": float(self.scale), "clean": float(self.clean)}

    def load(self, state: ScalerRecord) -> None:
        self.scale.fill_(state["scale"] if self.enabled else 1.0)
        self.clean.fill_(state["clean"])


def scaled_lr(base_lr: float, global_batch: int) -> float:
    """The linear scaling rule; `global_batch` counts clips over all ranks and accumulation steps.

    Repeated augmentation is not counted in the batch.
    """
    return base_lr * global_batch / REFERENCE_BATCH


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `floor`, by step.

    A pure function of the step: nothing to save, nothing to restore.

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


class Average:
    """The exponential moving average of a model's parameters, sharded or not, without a second module.

    `average = decay * average + (1 - decay) * parameter` after each update. A decay of None turns it off.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.live = {n: p for n, p in model.named_parameters() if p.requires_grad} if decay is not None else {}
        self.values = {name: parameter.detach().clone() for name, parameter in self.live.items()}

    def update(self, skip: torch.Tensor) -> None:
        """One update; where `skip` (a scalar tensor) is not 0 the step was refused and the average stays."""
        if self.decay is None:
            return
        weight = (1 - self.decay) * (skip == 0).to(torch.float32)
        with torch.no_grad():
            if weight.device.type == "cuda":
                live = [_local(self.live[name].detach()) for name in self.values]
                move_together([_local(value) for value in self.values.values()], live, weight)
                return
            for name, value in self.values.items():
                value.lerp_(self.live[name].detach(), weight.to(value.dtype))

    @contextlib.contextmanager
    def in_place_of(self) -> Iterator[None]:
        """Inside, the model carries the averaged parameters."""
        kept = {name: parameter.detach().clone() for name, parameter in self.live.items()}
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(kept)

    def _copy(self, source: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.live.items():
                parameter.copy_(source[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """CPU copies for a checkpoint; empty when off."""
        return {name: whole(value).to("cpu", copy=True) for name, value in self.values.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """From a checkpoint; one written without an average leaves it as it is."""
        for name, value in self.values.items():
            if name in tensors:
                value.copy_(like(tensors[name], value))


def move_together(values: list[torch.Tensor], targets: list[torch.Tensor], weight: torch.Tensor) -> None:
    """`value += weight * (target - value)` for all, in a few launches instead of one for each."""
    distances = torch._foreach_sub(targets, values)
    torch._foreach_mul_(distances, weight)
    torch._foreach_add_(values, distances)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
