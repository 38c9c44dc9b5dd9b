"""What a check says: which key has which value, what was expected, and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.params import SCRATCH, Params
from pipeline.params.consistency import PRETRAINED

#: `input`: a value that cannot work (exit code 2). `failure`: the world is not as it must be (1). `warning`: work goes
#: on without it.
Kind = Literal["input", "failure", "warning"]


@dataclass(frozen=True)
class Problem:
    """One line for the user; `text` ends without a stop."""

    key: str
    text: str
    cure: str
    kind: Kind = "input"

    def __str__(self) -> str:
        return f"{self.key}{self.text if self.text[:1] in ' :' else ' ' + self.text}. Cure: {self.cure}"


@dataclass(frozen=True)
class Scope:
    """What is about to run: stage -> its benchmarks. `chain`: all of them, so that the first has still to be run."""

    params: Params
    stages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    chain: bool = False

    def of(self, stage: str) -> tuple[str, ...]:
        """The benchmarks on which a stage will run."""
        return self.stages.get(stage, ())

    def has(self, *stages: str) -> bool:
        """Whether one of these stages will run."""
        return any(stage in self.stages for stage in stages)


def chain_scope(params: Params, compare: bool = False) -> Scope:
    """Every stage of an experiment, as `everest run` runs them; with the trainings of a comparison, if asked."""
    every = tuple(params.benchmarks)
    stages = dict.fromkeys(("download", "preprocess", "finetune", "evaluate"), every)
    if compare or params.finetune.init == PRETRAINED:
        stages |= {"corpus": tuple(params.pretrain.corpus), "pretrain": tuple(params.pretrain.corpus)}
    return Scope(params, stages, chain=True)


def trial_scope(params: Params, benchmarks: Sequence[str]) -> Scope:
    """One training of a comparison, on data that are there."""
    stages = {"finetune": tuple(benchmarks), "evaluate": tuple(benchmarks)}
    if params.finetune.init != SCRATCH:
        stages["pretrain"] = tuple(params.pretrain.corpus)
    return Scope(params, stages)


def stage_scope(params: Params, stage: str, benchmark: str | None) -> Scope:
    """One stage, as `everest finetune motion` runs it."""
    names = (benchmark,) if benchmark else tuple(params.pretrain.corpus) if stage == "pretrain" else ()
    return Scope(params, {stage: names})
