"""AdamW with the published parameter groups: no decay on vectors, layer-wise learning rates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
#: What belongs to the embedding, layer 0 (METHOD section 7).
_EMBEDDING = ("patch_embed", "pos_embed", "cls_token", "mask_token")


def takes_decay(name: str, parameter: torch.Tensor, exempt: Iterable[str] = ()) -> bool:
    """Whether weight decay applies: not to 1-D tensors, biases, positions and the mask token (METHOD section 7)."""
    leaf = name.rsplit(".", 1)[-1]
    if parameter.ndim <= 1 or leaf in ("bias", "q_bias", "v_bias", "mask_token"):
        return False
    return "pos_embed" not in name and name not in set(exempt)


def layer_of(name: str, depth: int) -> int:
    """The layer id of a classifier's parameter: 0 embedding, k+1 block k, depth+1 head and norms."""
    block = _BLOCK.search(name)
    if block:
        return int(block.group(1)) + 1
    return 0 if any(part in name for part in _EMBEDDING) else depth + 1


def depth_of(model: nn.Module) -> int:
    """The number of encoder blocks, read off the parameter names."""
    blocks = [int(found.group(1)) for name, _ in model.named_parameters() if (found := _BLOCK.search(name))]
    return max(blocks, default=-1) + 1


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, lr_scales: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups for AdamW: one per (weight decay, lr scale), with `lr_scale` beside them.

    Args:
        layer_decay: the lr of layer `id` is scaled by `layer_decay ** (depth + 1 - id)`; 1 turns it off.
        lr_scales: a factor for all parameters under a prefix, on top (the heads of a probe).
    """
    exempt: Iterable[str] = getattr(model, "no_weight_decay", tuple)() or ()
    depth = depth_of(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (depth + 1 - layer_of(name, depth)) if layer_decay != 1.0 else 1.0
        scale *= next((f for prefix, f in (lr_scales or {}).items() if name.startswith(prefix)), 1.0)
        decay = weight_decay if takes_decay(name, parameter, exempt) else 0.0
        group = groups.setdefault((decay, scale), {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], betas: Sequence[float], eps: float) -> torch.optim.AdamW:
    """Fused AdamW on CPU and CUDA alike. The learning rate is set before each step by :func:`set_lr`."""
    # lr 0 until the schedule sets it; groups carry extra keys ("names", "lr_scale") that AdamW leaves alone.
    return torch.optim.AdamW(groups, lr=0.0, betas=(betas[0], betas[1]), eps=eps, fused=True)


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
        self.scale = (self.scale * factor).clamp(min=1.0)
        self.clean = torch.where(grow, torch.zeros_like(self.clean), self.clean)

    def state(self) -> dict[str, float]:
        return {"scale": float(self.scale), "clean": float(self.clean)}

    def load(self, state: dict[str, float]) -> None:
        self.scale.fill_(state["scale"] if self.enabled else 1.0)
        self.clean.fill_(state["clean"])
