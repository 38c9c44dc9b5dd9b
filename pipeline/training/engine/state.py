"""The state of a training between two steps, as checkpoints carry it on beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.monitor.watch import Pace
from pipeline.tracking import names
from pipeline.training.optim import ScalerRecord


@dataclass
class Spent:
    """Where a training's time went, in seconds, in all processes that have worked on it, and how much was done.

    The first step after each start is left out of all but `first`: it compiles, allocates and chooses kernels. `train`
    is the time of the other `steps` on `clips`; its parts (see pipeline.training.timing) are below it. `wall` is all
    time from each start on, `energy_wh` the energy; None where one of the machines did not count it.
    """

    first: float = 0.0
    train: float = 0.0
    loader: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    communication: float = 0.0
    optimizer: float = 0.0
    validate: float = 0.0
    save: float = 0.0
    look: float = 0.0
    wall: float = 0.0
    energy_wh: float | None = 0.0
    steps: int = 0
    clips: int = 0

    @property
    def pace(self) -> Pace:
        """What the monitor is told of it."""
        return Pace(self.steps, self.train, self.loader, self.loader + self.forward)

    def add_process(self, seconds: float, energy_wh: float | None) -> None:
        """Count what a process has taken since it was last asked."""
        self.wall += seconds
        known = self.energy_wh is not None and energy_wh is not None
        self.energy_wh = self.energy_wh + energy_wh if known else None  # type: ignore[operator]

    def on_ranks(self, before: int, now: int, own_energy: bool) -> Spent:
        """What each of `now` ranks takes over of what each of `before` ranks has done.

        Args:
            own_energy: each rank counts that of its own device.
        """
        energy = self.energy_wh * before / now if own_energy and self.energy_wh is not None else self.energy_wh
        return replace(self, clips=self.clips * before // now, energy_wh=energy)

    def add_step(self, clips: int, parts: dict[str, float]) -> None:
        """Count one more step and the seconds of its parts."""
        self.steps += 1
        self.clips += clips
        for part, seconds in parts.items():
            setattr(self, part, getattr(self, part) + seconds)


@dataclass
class Watched:
    """What the validations so far amount to.

    Attributes:
        step: after which the last validation was.
        best: the highest score, top-1 or mean average precision; None before the first.
        waited: validations since it was reached.
        scores: of the last one.
    """

    step: int = 0
    best: float | None = None
    waited: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def note(self, scores: dict[str, float]) -> None:
        """The scores of one more validation, the same on all ranks."""
        self.scores = scores
        score = names.validation_score(scores)
        if score is not None and (self.best is None or score > self.best):
            self.best, self.waited = score, 0
        else:
            self.waited += 1


@dataclass(frozen=True)
class TrainingState:
    """state.json of a checkpoint; `epoch`, `step_in_epoch`, `world` and `global_batch` are for readers of the file.

    Attributes:
        step: optimizer steps done.
        passed_over: steps that a rollback leaves out.
        nonfinite: refused steps so far.
        last_loss: None before the first finite one.
        seen: budgets that clips had, where each has its own, each with the number of such clips of the main rank.
    """

    step: int
    epoch: int
    step_in_epoch: int
    world: int
    global_batch: int
    scaler: ScalerRecord
    passed_over: list[int]
    nonfinite: int
    last_loss: float | None
    spent: Spent
    watched: Watched
    seen: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrainingState:
        """From the file's JSON. One of before validations were counted is taken as one after its validation.

        One of before budgets were counted goes on with those of the clips to come.
        """
        watched = Watched(**record.get("watched", {"step": record["step"]}))
        return cls(**{**record, "spent": Spent(**record["spent"]), "watched": watched})
