"""When the monitor looks: on a grid of steps, as often as the time that looks take allows.

There are two kinds of looks. A short one reconstructs the held-out clips; a long one computes features of all others as
well, which takes many times as long. Each kind has its part of the allowance, so that cheap looks come often.

When a look comes may depend on the clock; what it finds never does, and it never changes the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The long looks' part of the allowance.
LONG_PART = 0.75


@dataclass(frozen=True)
class Next:
    """The next look: after which step, and whether a long one."""

    step: int
    long: bool


@dataclass
class Spent:
    """[s] that looks took so far, by kind, and the last of each kind."""

    short: float = 0.0
    long: float = 0.0
    last_short: float = 0.0
    last_long: float = 0.0

    @property
    def whole(self) -> float:
        return self.short + self.long

    def add(self, seconds: float, long: bool) -> None:
        """A look that took so long."""
        if long:
            self.long, self.last_long = self.long + seconds, seconds
        else:
            self.short, self.last_short = self.short + seconds, seconds


@dataclass(frozen=True)
class Schedule:
    """The rule of one training.

    Attributes:
        steps: of the training; after the last there is a long look, as there is before the first, whatever they cost.
        grid: steps between two looks at least; None: as many as fit in `minutes`.
        max_cost: share of the training's time; 1: all looks of the grid, and all of them long.
    """

    steps: int
    grid: int | None
    minutes: float
    max_cost: float

    def following(self, step: int, step_seconds: float, spent: Spent) -> Next | None:
        """The look after one at `step`; None after the last step.

        Args:
            step_seconds: [s] of one step of training, without looks; 0 where it is not known yet.
        """
        if step >= self.steps:
            return None
        grid = self.grid or max(1, math.ceil(60 * self.minutes / max(step_seconds, 1e-9)))
        first = min((step // grid + 1) * grid, self.steps)
        if self.max_cost >= 1 or not step_seconds:
            return Next(first, self.max_cost >= 1)

        def place(kind: float, part: float, looks: float) -> int:
            """The step by which so many more looks are within their part of the allowance."""
            return math.ceil(kind * looks / (part * self.max_cost * step_seconds))

        longs = [spent.long / spent.last_long + more if spent.last_long else 0.0 for more in (1, 2)]
        long, after = (self._on_grid(place(spent.last_long, LONG_PART, many), first, grid) for many in longs)
        if long is not None and after is None:
            long = self.steps  # the last that there is room for shows the end
        shorts = spent.short / spent.last_short + 1 if spent.last_short else 0.0
        short = self._on_grid(place(spent.last_short, 1 - LONG_PART, shorts), first, grid)
        if short is not None and short < (self.steps if long is None else long):
            return Next(short, False)
        return Next(self.steps if long is None else long, True)

    def _on_grid(self, place: int, first: int, grid: int) -> int | None:
        """The first step of the grid from `place` on, the last step counting as one; None after that."""
        return min(max(first, -(-place // grid) * grid), self.steps) if place <= self.steps else None
