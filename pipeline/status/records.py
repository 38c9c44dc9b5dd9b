"""What `everest status` knows: the JSON document that it prints, and what its screen is drawn from.

Times are seconds since 1970; steps are optimizer steps that are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: `killed`: its process went without a word. `lost`: its process is gone, but ranks of it still run.
State = Literal["running", "stopped", "killed", "failed", "lost", "finished"]


@dataclass(frozen=True)
class Checkpoint:
    """The newest saved state of a training."""

    step: int
    at: float


@dataclass(frozen=True)
class Training:
    """The figures of a training, as far as its files tell.

    Attributes:
        steps: that it will have; None where it was stopped before it knew.
        rate: [steps/s] of the last steps.
        left_seconds: until its last step, at that rate; None where it does not run.
        loss: over the whole training, evenly sampled, the newest last.
        probes: what validations or the monitor measured, by their tracked names: all values, the newest last.
        waits_at: of ranks that have not moved for a while: which, where, for how long.
        memory_gib: resident memory of its ranks together; None where none runs here.
        gpus: numbers of the GPUs that its ranks use.
        health: the alarms of the monitor that hold, in sentences; None where no monitor has looked.
        looked_at, next_look: the steps of its last look and of its next one.
    """

    step: int
    steps: int | None
    epoch: int | None
    rate: float | None
    left_seconds: float | None
    loss: list[float]
    probes: dict[str, list[float]]
    checkpoint: Checkpoint | None
    health: list[str] | None
    waits_at: str = ""
    memory_gib: float | None = None
    gpus: list[int] = field(default_factory=list)
    looked_at: int | None = None
    next_look: int | None = None


@dataclass(frozen=True)
class Stage:
    """One execution of a stage.

    Attributes:
        series: its name in a comparison, a repetition or a deployment's run; empty in the chain itself.
        at: when it began, or when it ended if it does not run.
        doing: its own line of progress.
        message: why it ended.
        sentence: what became of it and what goes on with it, where it does not run.
        unsent: tracking records that the server has not got.
    """

    stage: str
    benchmark: str | None
    series: str
    state: State
    at: float
    pid: int | None
    training: Training | None
    log: str | None
    doing: str = ""
    message: str = ""
    sentence: str = ""
    unsent: int = 0

    @property
    def name(self) -> str:
        """As `dvc repro` takes it."""
        return f"{self.stage}@{self.benchmark}" if self.benchmark else self.stage


@dataclass(frozen=True)
class Command:
    """A command of ours that runs: `everest run`, a stage by hand, a worker of Prefect."""

    pid: int
    words: str
    since: float
    log: str | None


@dataclass(frozen=True)
class Wait:
    """Who waits for whom, in words."""

    who: str
    waits_for: str


@dataclass(frozen=True)
class Finished:
    """A stage that ended well: `result` in a few words."""

    stage: str
    at: float
    result: str


@dataclass(frozen=True)
class Checkout:
    """A project's folder and what goes on in it.

    Attributes:
        recipe: as params.yaml names it; empty where that cannot be read.
        fault: why it cannot be read; empty where it can.
        waits: processes that wait for others.
        behind: stages of the chain that come after those that run.
        finished: within the last day, the newest first.
        spent: of `compute.budget`, in words; empty without one.
    """

    folder: str
    recipe: str
    commands: list[Command]
    stages: list[Stage]
    waits: list[Wait]
    behind: list[Wait]
    finished: list[Finished]
    fault: str = ""
    spent: str = ""


@dataclass(frozen=True)
class FlowRun:
    """A run that Prefect knows of; `place`: its worktree here, if it has one."""

    name: str
    deployment: str
    state: str
    since: float | None
    tasks: list[str]
    place: str | None
    waits_for: str = ""


@dataclass(frozen=True)
class Orchestrator:
    """Prefect's server: `fault` says in one line why it told nothing."""

    address: str
    fault: str
    runs: list[FlowRun]


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine; `pids` of the processes that use it, as this machine numbers them.

    Attributes:
        uuid: its name to CUDA_VISIBLE_DEVICES, the same to every process.
        held_by: the stage that has its lock, in words; empty where none of ours has.
    """

    index: int
    name: str
    busy: float | None
    memory_gib: float
    total_gib: float
    watts: float | None
    pids: list[int]
    uuid: str = ""
    held_by: str = ""


@dataclass(frozen=True)
class Status:
    """All of it.

    Attributes:
        devices: devices that a stage has and that are none of `gpus` (named by EVEREST_DEVICES): by whom, in words.
        queue: stages that wait for GPUs, the one that has waited longest first.
    """

    host: str
    at: float
    checkouts: list[Checkout]
    gpus: list[Gpu]
    prefect: Orchestrator | None
    devices: dict[str, str] = field(default_factory=dict)
    queue: list[Wait] = field(default_factory=list)
