"""What the training engine knows of a monitor, and the one that is off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Pace:
    """[s] that this rank's steps took since the training began, and how many there were.

    Attributes:
        own: reading clips and the forward pass, in which a rank waits for no other.
    """

    steps: int
    train: float
    loader: float
    own: float

    @property
    def step_seconds(self) -> float:
        """[s] of one step; 0 where there was none yet."""
        return self.train / self.steps if self.steps else 0.0


class Watcher(Protocol):
    """Told of every step; looks at the weights between two of them."""

    def rewind(self, step: int, pace: Pace) -> None:
        """The training goes on from `step`: what was noted of later ones is void. `pace` is that of all until there."""

    def step(self, step: int, loss: float, norm: float, lr: float) -> None:
        """One optimizer step is done and read from the device, counted from 1."""

    def due(self, step: int) -> bool:
        """Whether to look after this step; the same on all ranks, without an exchange."""

    def look(self, step: int, weights: Callable[[], Mapping[str, Tensor]], pace: Pace) -> None:
        """Look at the weights (a collective). They are the published ones: averaged where an average is kept."""

    def flush(self, trained: float) -> None:
        """Bring what is known to the disk: the training is saved, or stops, after so many seconds of steps."""

    def metrics(self) -> dict[str, float]:
        """The newest numbers, and what looks cost; on rank 0."""


class NoWatcher:
    """The monitor that is off; and that of a fine-tuning, which validates instead."""

    def rewind(self, step: int, pace: Pace) -> None:
        return

    def step(self, step: int, loss: float, norm: float, lr: float) -> None:
        return

    def due(self, step: int) -> bool:
        return False

    def look(self, step: int, weights: Callable[[], Mapping[str, Tensor]], pace: Pace) -> None:
        return

    def flush(self, trained: float) -> None:
        return

    def metrics(self) -> dict[str, float]:
        return {}
