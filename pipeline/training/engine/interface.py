"""What the engine asks of a training: a task with a model, batches and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from pipeline.training.optim import ParameterGroup


class Batch(Protocol):
    """What the loader yields, as far as the engine looks: the clips' global rows, for the records of a bad step."""

    index_B: torch.Tensor


class Loader(Protocol):
    """Batches as a pure function of (epoch, micro-step); see pipeline.data.clips.loader."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]: ...


class Task(Protocol):
    """What is trained: a model, its batches, its loss."""

    model: nn.Module

    @property
    def loader(self) -> Loader: ...

    def groups(self) -> list[ParameterGroup]:
        """Parameter groups for AdamW, after the model was sharded."""

    def loss(self, model: nn.Module, batch: Any, epoch: int) -> torch.Tensor:
        """The mean loss of one micro-batch, a scalar on the device."""

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        """Scores after an epoch, the same on all ranks; {} where there is nothing to do.

        `alive` is called for each batch, so that a long validation is not taken for a stall.
        """
