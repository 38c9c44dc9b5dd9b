"""The chain as the flow runs it. DVC decides what is stale; this file only says in which order to ask.

A test holds this order against the graph of dvc.yaml.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.params import Params

PRETRAINED = "outputs/pretrain"
#: The stage behind the comparison, in a file of its own: the chain must not drag it along.
COMPARE = "compare/dvc.yaml:compare"


class Origin(enum.Enum):
    """Where a stage's result is made, and how it comes here: as DVC's cache of both checkouts, or by its remote."""

    HERE = "here"
    SHARED_CACHE = "shared cache"
    REMOTE = "remote"


@dataclass(frozen=True)
class Stage:
    """One DVC stage: its name, the stages it waits for, and what is to be known of it.

    Attributes:
        trains: one training at a time a machine.
        fetches: from the network.
        origin: where its result is made.
    """

    name: str
    after: tuple[str, ...] = field(default=())
    trains: bool = False
    fetches: bool = False
    origin: Origin = Origin.HERE


def data_chain(params: Params) -> list[Stage]:
    """The stages before the trainings: each benchmark's cache, what trivial models reach, corpora."""
    stages: list[Stage] = []
    for key in params.benchmarks:
        stages.append(Stage(f"download@{key}", fetches=True))
        stages.append(Stage(f"preprocess@{key}", (f"download@{key}",)))
        stages.append(Stage(f"baseline@{key}", (f"preprocess@{key}",)))
    return stages + [Stage(f"corpus@{key}", (f"preprocess@{key}",)) for key in params.pretrain.corpus]


def made_at(origin: Origin, stages: Sequence[Stage]) -> list[Stage]:
    """The same stages, those of the data with another origin."""
    names = ("download", "preprocess", "baseline", "corpus")
    return [replace(stage, origin=origin) if stage.name.partition("@")[0] in names else stage for stage in stages]


def comparison_chain(params: Params) -> list[Stage]:
    """The data, then the comparison."""
    stages = data_chain(params)
    return [*stages, Stage(COMPARE, tuple(stage.name for stage in stages), trains=True)]


def chain(params: Params) -> list[Stage]:
    """All stages of an experiment, each after what it waits for."""
    starts_from: tuple[str, ...] = ()
    if params.finetune.init == PRETRAINED:
        stages = data_chain(params)
        stages.append(Stage("pretrain", tuple(f"corpus@{key}" for key in params.pretrain.corpus), trains=True))
        starts_from = ("pretrain",)
    else:  # with converted weights nobody waits for a pre-training
        stages = [stage for stage in data_chain(params) if not stage.name.startswith("corpus@")]
    for key in params.benchmarks:
        stages.append(Stage(f"finetune@{key}", (*starts_from, f"preprocess@{key}"), trains=True))
        stages.append(Stage(f"evaluate@{key}", (f"finetune@{key}",)))
    last = tuple(f"{name}@{key}" for key in params.benchmarks for name in ("baseline", "evaluate"))
    stages.append(Stage("report", last))
    return stages
