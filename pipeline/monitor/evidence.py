"""What the rules of health judge: the losses and norms of all steps, the looks, and what clocks and meters say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.monitor.history import History, Values
from pipeline.monitor.record import Look
from pipeline.params.parts.monitor import HealthParams

#: [steps] that a mean is over, at least; [share] of the training's steps that it is over.
LEAST_STEPS, WINDOW = 8, 0.02
#: [steps] that what clocks say is a mean over, at least.
FEWEST_STEPS = 2 * LEAST_STEPS
#: A difference of two means is believed from so many of its standard errors on.
ERRORS = 4.0


@dataclass(frozen=True)
class Facts:
    """What the ranks' own clocks and meters say, since the look before.

    Attributes:
        own: [s] a step, by rank: reading clips and the forward pass, in which a rank waits for no other.
        loader: share of a step's time in which the rank that waits longest waits for clips.
        memory: share of the device's memory that is taken, of the fullest rank.
        steps: that these are means over.
    """

    own: Sequence[float]
    loader: float
    memory: float
    steps: int


@dataclass(frozen=True)
class Probed:
    """How many clips of a corpus a probe is fitted on and scored on; `unseen`: the latter are of no training video.

    Where videos have several classes each, counts are of the clips that a class has, on average: what a mean precision
    is made of.
    """

    fitted: int
    scored: int
    unseen: bool


@dataclass(frozen=True)
class Evidence:
    """What the rules judge.

    Attributes:
        step, steps, warmup: steps done, of all, and of the warm-up of the learning rate.
        facts: of the last look; None before it.
        probed: by corpus.
    """

    step: int
    steps: int
    warmup: int
    history: History
    looks: Sequence[Look]
    facts: Facts | None = None
    probed: Mapping[str, Probed] = field(default_factory=dict)

    @property
    def window(self) -> int:
        """[steps] that means of the loss are over."""
        return max(LEAST_STEPS, round(WINDOW * self.steps))

    def recent(self) -> Values:
        """The losses of the last window."""
        return self.history.losses(self.step - self.window, self.step)

    def newest(self, name: str) -> float | None:
        """A metric as the last look that measured it found it."""
        return next((look.metrics[name] for look in reversed(self.looks) if name in look.metrics), None)

    def judged(self, health: HealthParams) -> bool:
        """Whether enough was trained to say something of what was learned."""
        return self.step >= max(self.warmup, health.judge_from * self.steps) + self.window


def differ(a: Values, b: Values) -> bool:
    """Whether two means differ by more than chance: 4 standard errors, of losses that vary from batch to batch."""
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return abs(float(a.mean()) - float(b.mean())) > ERRORS * error


def may_fall(before: Values, now: Values, least: float) -> bool:
    """Whether a fall of `least` cannot be ruled out: noise hides what there is."""
    error = float(np.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)))
    fall = float(before.mean()) - float(now.mean())
    return fall + 2 * error > least * float(before.mean()) and error > least * float(before.mean())


def fall_in_errors(before: Values, now: Values) -> float:
    """By how many standard errors of the difference the second mean is lower; 0 for fewer than two values."""
    if min(len(before), len(now)) < 2:
        return 0.0
    error = float(np.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)))
    return (float(before.mean()) - float(now.mean())) / max(error, 1e-12)
