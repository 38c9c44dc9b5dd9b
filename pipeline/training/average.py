"""The exponential moving average of a model's parameters, sharded or not, without a second module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from pipeline.distributed.groups import like, whole


class Average:
    """`average = decay * average + (1 - decay) * parameter` after each update. A decay of None turns it off."""

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
