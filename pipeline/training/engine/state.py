"""The state of a training between two steps, as checkpoints carry it on beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.tracking import names
from pipeline.training.optim import ScalerRecord


@dataclass
class Spent:
    """Where the time of this process went, in seconds, and how much was done.

    The first step after each start is left out of all but `first`: it compiles, allocates and chooses kernels. `train`
    is the time of the other `steps` on `clips`; its parts (see pipeline.training.timing) are below it.
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
    steps: int = 0
    clips: int = 0

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

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrainingState:
        """From the file's JSON. One of before validations were counted is taken as one after its validation."""
        watched = Watched(**record.get("watched", {"step": record["step"]}))
        return cls(**{**record, "spent": Spent(**record["spent"]), "watched": watched})
