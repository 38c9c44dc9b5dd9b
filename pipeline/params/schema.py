"""The whole of params.yaml with its group `compute`, and what a benchmark's own values change in it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticKnownError

from pipeline.errors import InputError
from pipeline.params import names
from pipeline.params.benchmarks import BenchmarkParams
from pipeline.params.groups import (
    BudgetParams,
    ClipParams,
    CompareParams,
    EvaluateParams,
    FinetuneParams,
    Group,
    IngestParams,
    NonNegative,
    Place,
    Positive,
    PreprocessParams,
    PretrainParams,
    Seed,
    Workers,
)

#: Keys of `pipeline.efficiency.meters.DEVICES`, and `cpu` for this machine.
PlannedDevice = Literal["h100", "h200", "a100-80", "a100-40", "a6000", "4090", "cpu"]
Ranks = Annotated[int, Field(ge=1, le=1024)]
#: Stages whose ranks take GPUs.
ON_GPUS = ("pretrain", "finetune", "evaluate")
#: How many of a machine's GPUs, or which.
Devices: TypeAlias = int | list[int]
Gpus = Annotated[Devices | dict[str, Devices] | None, PlainValidator(lambda value: _gpus(value))]
#: Not, by parts, or with rows of blocks that a GPU replays.
Compile = Annotated[bool | Literal["graphs"], BeforeValidator(lambda value: _compile(value))]
#: No word of sbatch's own language: no blank, no `=`, no leading `-`.
SlurmWord = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_][\w.,:@&|*+\[\]-]*$")]
SlurmOption = Literal[
    "qos", "constraint", "reservation", "exclude", "nodelist", "mem", "mem-per-gpu", "licenses", "nice"
]


class SlurmParams(Group):
    """What a training's job asks SLURM for. `hours` is one turn: a job that reaches it saves and goes on in another."""

    partition: SlurmWord | None = None
    account: SlurmWord | None = None
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus_per_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    hours: Annotated[float, Field(ge=1 / 60, le=8760)] = 24.0
    extra: dict[SlurmOption, SlurmWord] = Field(default_factory=dict)


class ComputeParams(Group):
    """How this machine runs it. Not a dependency of any DVC stage: results do not become stale by it.

    `planned_for` is what `everest plan` reckons with. `gpus`: of each machine, for all stages or by stage, and as many
    ranks; None: as many as `ranks`. `compile`: "graphs" is for steps of few clips. `deterministic`: a GPU too repeats a
    training to the bit, at some of its speed.
    Defaults are for files of before these keys were known.
    """

    device: Literal["auto", "cpu", "cuda"]
    planned_for: PlannedDevice = "h100"
    ranks: Ranks
    gpus: Gpus = None
    threads_per_rank: Workers | None
    loader_workers: Annotated[int, Field(ge=0, le=1024)]
    cluster: Place | None
    launcher: Literal["local", "slurm"] = "local"
    slurm: SlurmParams = Field(default_factory=SlurmParams)
    data_parallel: Literal["ddp", "fsdp"]
    compile: Compile
    deterministic: bool = False
    activation_checkpointing: bool
    stall_seconds: Positive
    max_restarts: Annotated[int, Field(ge=0, le=1000)]
    budget: BudgetParams | None = None
    eur_per_gpu_hour: Positive | None = None
    g_co2_per_kwh: NonNegative | None = None

    @model_validator(mode="after")
    def _gpus_of_a_cpu(self) -> ComputeParams:
        if self.device == "cpu" and self.gpus is not None:
            raise ValueError(f"gpus = {self.gpus} with device: cpu. Cure: gpus: null and ranks, or device: auto.")
        if self.launcher == "slurm" and "[" in str(self.gpus):
            raise ValueError(f"gpus = {self.gpus} with launcher: slurm, which hands them out. Cure: say how many.")
        return self

    @property
    def nodes(self) -> int:
        """Machines that a training has."""
        return self.slurm.nodes if self.launcher == "slurm" else 1

    def wanted(self, stage: str) -> int | list[int] | None:
        """How many or which GPUs of a machine a stage asks for; None: one for each of `ranks`, where there are any."""
        return self.gpus.get(stage) if isinstance(self.gpus, dict) else self.gpus

    def ranks_of(self, stage: str) -> int:
        """Ranks of each machine."""
        wanted = self.wanted(stage)
        return self.ranks if wanted is None else len(wanted) if isinstance(wanted, list) else wanted

    def gpus_of(self, stage: str) -> int:
        """GPUs of each machine that a stage takes where there are any."""
        return 0 if self.device == "cpu" else self.ranks_of(stage)


def _gpus(value: object) -> Devices | dict[str, Devices] | None:
    """Which GPUs: nothing, a number, a list, or those by stage; pydantic's own words for such a union are long."""
    if value is None or _is_devices(value):
        return cast(Devices | None, value)
    if isinstance(value, dict) and value and value.keys() <= set(ON_GPUS) and all(map(_is_devices, value.values())):
        return cast(dict[str, Devices], value)
    raise ValueError(
        f"expected null, how many (1 to 1024), which (such as [0, 1], each once), or one of these for some of "
        f"{', '.join(ON_GPUS)}. Cure: gpus: 4, or gpus: {{pretrain: 8, finetune: 4}}."
    )


def _compile(value: object) -> object:
    if value != "graphs" and not isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "false, true or graphs"})
    return value


def _is_devices(value: object) -> bool:
    if isinstance(value, list):
        return 0 < len(value) == len(set(map(str, value))) and all(type(n) is int and 0 <= n < 1024 for n in value)
    return type(value) is int and 1 <= value <= 1024


class Params(Group):
    """The whole of params.yaml."""

    recipe: Annotated[str, AfterValidator(names.recipe_name)]
    seed: Seed
    benchmarks: Annotated[dict[str, BenchmarkParams], Field(min_length=1, max_length=100)]
    clip: ClipParams
    ingest: IngestParams
    preprocess: PreprocessParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    compare: CompareParams
    compute: ComputeParams

    def finetune_of(self, benchmark: str) -> FinetuneParams:
        """The fine-tuning parameters of one benchmark: `finetune` with that benchmark's own values on top."""
        overrides = self.benchmark(benchmark).finetune.model_dump(exclude_none=True)
        return self.finetune.model_copy(update=overrides)

    def evaluate_of(self, benchmark: str) -> EvaluateParams:
        """The evaluation parameters of one benchmark."""
        overrides = self.benchmark(benchmark).evaluate.model_dump(exclude_none=True)
        return self.evaluate.model_copy(update=overrides)

    def compared_benchmarks(self) -> list[str]:
        """What a comparison fine-tunes and tests on: all benchmarks where `compare.benchmarks` is null.

        Raises:
            InputError: one that is not among the benchmarks. Only a comparison asks: the chain runs without.
        """
        for key in self.compare.benchmarks or []:
            self.benchmark(key)
        return self.compare.benchmarks or list(self.benchmarks)

    def benchmark(self, key: str) -> BenchmarkParams:
        if key not in self.benchmarks:
            raise InputError(
                f"benchmark {key!r} is not in params.yaml, which has: {', '.join(self.benchmarks)}. "
                f"Cure: {names.nearest(key, self.benchmarks)}"
            )
        return self.benchmarks[key]
