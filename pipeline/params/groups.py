"""The groups of params.yaml as frozen pydantic models: every key, its type and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.params import names, rand_augment
from pipeline.strategies import strategy_facts

Ratio = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
#: AdamW refuses 1.
Beta = Annotated[float, Field(ge=0, lt=1)]
#: Every number ends somewhere: beyond these bounds lie slips of the pen, which would fail after hours or for want of
#: memory.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Workers = Annotated[int, Field(ge=1, le=1024)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
#: A folder or a file, wherever it lies.
Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(names.printable_text)]
Size = Literal["tiny", "small", "base", "large", "huge"]

#: `finetune.init` for fresh weights; also a file of the project, since DVC wants every dependency to be a path.
SCRATCH = "scratch"
#: Class counts that the publishers fix (DATASETS: UCF101, HMDB51, Kinetics-400, SSv2, Ego4D OSCC).
PUBLISHED_CLASSES = {"ucf101": 101, "hmdb51": 51, "k400": 400, "ssv2": 174, "oscc": 2}
GENERATED_CLASSES = {"motion": 8, "state_change": 2}
#: Names of the strategies that `models/strategies` holds for pre-training, and for fine-tuning.
PRETRAINING = tuple(name for name, facts in strategy_facts().items() if facts.ratios)
FINETUNING = tuple(name for name, facts in strategy_facts().items() if facts.finetune_ratio)
if TYPE_CHECKING:
    PretrainStrategy: TypeAlias = str
    FinetuneStrategy: TypeAlias = str
else:
    PretrainStrategy, FinetuneStrategy = Literal[PRETRAINING], Literal[FINETUNING]


def compared_strategies() -> dict[str, dict[str, Any]]:
    """Name in a comparison -> overrides of params.yaml. Fine-tuning is the same for all: only the pre-training differs.

    Strategies that do not select frames see the clip as it comes, and the ratio of kept tokens is 1 where it means
    nothing. Those whose compute it bounds are also compared with another one: `everest-keep-0.4`.
    """
    arms: dict[str, dict[str, Any]] = {}
    for name in PRETRAINING:
        facts = strategy_facts()[name]
        overrides: dict[str, Any] = {"pretrain.strategy": name}
        if not facts.uses_keep_ratio:
            overrides["pretrain.keep_ratio"] = 1.0
        if facts.selects_frames:
            arms[facts.label] = overrides
            arms[f"{facts.label}-all-frames"] = {**overrides, "pretrain.frame_selection.mode": "none"}
        else:
            arms[facts.label] = {**overrides, "pretrain.frame_selection.mode": "none"}
    return {**arms, "scratch": {"finetune.init": SCRATCH}}


def _inside_or_absolute(text: str) -> str:
    """A relative path stays in the project: a run in a worktree would find another folder, or none."""
    if ".." in Path(text).parts:
        raise ValueError(
            f"{text!r} leads out of the project, and elsewhere from a run's worktree. Cure: a folder of the project, "
            "or an absolute path."
        )
    return text


def _rand_augment(text: str) -> str:
    rand_augment.parse(text)
    return text


class Group(BaseModel):
    """A group of parameters: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GeneratedSource(Group):
    """Videos drawn by this project as real H.264 files, the same for the same seed."""

    kind: Literal["generated"]
    task: Literal["motion", "state_change"]
    seed: Seed
    train: Count
    val: Count
    test: Count
    frames: Annotated[int, Field(ge=4, le=10_000)]
    size: Annotated[int, Field(ge=32, le=512)]


class FolderSource(Group):
    """Videos that already lie in a folder; `annotations` is a CSV/Parquet file, or None for a folder per class."""

    kind: Literal["folder"]
    path: Place
    annotations: Place | None = None


class OfficialSource(Group):
    """The publisher's own addresses (or `mirrors`, tried first); `limit` fetches that many videos only."""

    kind: Literal["official"]
    mirrors: Annotated[list[Place], Field(max_length=100)] = []
    profile: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    limit: Count | None = None

    @field_validator("mirrors")
    @classmethod
    def _no_logins(cls, mirrors: list[str]) -> list[str]:
        for number, mirror in enumerate(mirrors):
            if "@" in mirror.partition("://")[2].partition("/")[0]:
                raise ValueError(
                    f"address {number} holds a login, which git, dvc.lock and every tracked run would keep. "
                    "Cure: put it into ~/.netrc, and only the host here."
                )
        return mirrors


class DataParams(Group):
    """What one benchmark's videos are and how a clip is cut from them."""

    dataset: Literal["generated", "folder", "ucf101", "hmdb51", "k400", "ssv2", "oscc"]
    raw: Annotated[str, AfterValidator(names.folder_below)] | None = None
    split: Annotated[int, Field(ge=1, le=3)]
    classes: Annotated[int, Field(ge=2, le=100_000)]
    frame_step: Annotated[int, Field(ge=1, le=10_000)]
    source: Annotated[GeneratedSource | FolderSource | OfficialSource, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _classes_fit_the_dataset(self) -> DataParams:
        source = self.source
        if isinstance(source, GeneratedSource):
            expected, what = GENERATED_CLASSES[source.task], f"the generated task {source.task!r}"
        elif self.dataset in PUBLISHED_CLASSES:
            expected, what = PUBLISHED_CLASSES[self.dataset], f"dataset {self.dataset!r}"
        else:
            return self
        if self.classes != expected:
            raise ValueError(
                f"classes = {self.classes} does not fit {what}, which has {expected} classes. "
                f"Cure: set classes to {expected}."
            )
        return self

    @model_validator(mode="after")
    def _source_fits_the_dataset(self) -> DataParams:
        if (self.dataset == "generated") != (self.source.kind == "generated"):
            raise ValueError(
                f"dataset = {self.dataset!r} with source.kind = {self.source.kind!r}: generated videos need both "
                "to be 'generated'. Cure: change one of them."
            )
        return self


class FinetuneOverrides(Group):
    """Fields of `finetune` that one benchmark sets for itself; what is absent comes from `finetune`."""

    epochs: Count | None = None
    base_lr: Positive | None = None
    warmup_epochs: NonNegative | None = None
    batch: Count | None = None
    flip: Probability | None = None
    mixup: NonNegative | None = None
    cutmix: NonNegative | None = None
    drop_path: Probability | None = None
    fc_dropout: Probability | None = None
    layer_decay: Ratio | None = None
    repeated_augmentation: Annotated[int, Field(ge=1, le=100)] | None = None
    keep_ratio: Ratio | None = None
    label_fraction: Ratio | None = None
    validate_split: Literal["val", "test"] | None = None
    select: Literal["last", "best"] | None = None


class EvaluateOverrides(Group):
    """Fields of `evaluate` that one benchmark sets for itself."""

    split: Literal["test", "val"] | None = None
    segments: Annotated[int, Field(ge=1, le=1000)] | None = None
    crops: Literal[1, 3] | None = None


class BenchmarkParams(Group):
    """All three groups are written out, if only as `{}`: DVC watches each of them."""

    data: DataParams
    finetune: FinetuneOverrides
    evaluate: EvaluateOverrides


class ClipParams(Group):
    """The clip that every model of the experiment sees; `source` is where all stages read its frames."""

    source: Literal["cache", "videos"]
    frames: Annotated[int, Field(ge=4, le=1024)]
    resolution: Annotated[int, Field(ge=32, le=2048)]

    @model_validator(mode="after")
    def _whole_tokens(self) -> ClipParams:
        if self.frames % 2:
            raise ValueError(f"frames = {self.frames} must be even: a tubelet takes two. Cure: {self.frames + 1}.")
        if self.resolution % 16:
            cure = max(32, round(self.resolution / 16) * 16)
            raise ValueError(f"resolution = {self.resolution} must be a multiple of the 16-pixel patch. Cure: {cure}.")
        return self


class IngestParams(Group):
    """Limits under which every video is decoded once, fully, in a process that can be killed."""

    deadline_seconds: Positive
    memory_gib: Positive
    failure_budget: Probability
    min_frames: Count
    max_repeated_run: Count
    workers: Workers


class PreprocessParams(Group):
    """Distance maps and cached frames.

    `keep_every` k stores every k-th frame; `store` says how a frame is kept; `map_weights` is a model folder whose
    tubelet embedding makes the maps, null a seeded random one.
    """

    store: Literal["jpeg", "raw"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    short_side: Annotated[int, Field(ge=16, le=8192)]
    frames: Literal["all", "every", "informative"]
    keep_every: Count
    map_source: Literal["pixels", "embedding"]
    map_weights: Place | None
    shard_mib: Annotated[int, Field(ge=1, le=65_536)]
    workers: Workers


class FrameSelection(Group):
    """Information-intensive frame selection (METHOD section 3)."""

    mode: Literal["none", "cached", "online"]
    oversample: Annotated[float, Field(ge=1, le=8)]
    window: Literal["grow", "fixed"]


class PretrainParams(Group):
    corpus: Annotated[list[str], Field(min_length=1)]
    size: Size
    decoder_depth: Annotated[int, Field(ge=1, le=100)]
    strategy: PretrainStrategy
    keep_ratio: Ratio
    visible_ratio: Ratio
    frame_selection: FrameSelection
    epochs: Count
    warmup_epochs: NonNegative
    batch: Count
    accumulate: Count
    base_lr: Positive
    min_lr: NonNegative
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative
    clip_grad: Positive | None
    scales: Annotated[list[Ratio], Field(min_length=1, max_length=100)]
    flip: Probability
    repeated_augmentation: Annotated[int, Field(ge=1, le=100)]
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint_every_steps: Count
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: Count


class FinetuneParams(Group):
    """`label_fraction`: share of each class's training videos that is used (low-shot protocol); 1 is all."""

    init: Annotated[Place, AfterValidator(_inside_or_absolute)]
    strategy: FinetuneStrategy
    keep_ratio: Ratio
    head: Literal["mean", "attentive"]
    frozen: bool
    label_fraction: Ratio
    epochs: Count
    warmup_epochs: NonNegative
    batch: Count
    accumulate: Count
    base_lr: Positive
    min_lr: NonNegative
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative
    clip_grad: Positive | None
    layer_decay: Ratio
    drop_path: Probability
    fc_dropout: Probability
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    mixup: NonNegative
    cutmix: NonNegative
    rand_augment: Annotated[str, Field(max_length=200), AfterValidator(_rand_augment)] | None
    random_erasing: Probability
    crop_scale: Annotated[list[Ratio], Field(min_length=2, max_length=2)]
    crop_ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    flip: Probability
    repeated_augmentation: Annotated[int, Field(ge=1, le=100)]
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    validate_split: Literal["val", "test"]
    validate_every_epochs: Count
    select: Literal["last", "best"]
    checkpoint_every_steps: Count
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: Count


class EvaluateParams(Group):
    """`split` is `val` where a test split has no public labels (Something-Something v2, OSCC)."""

    split: Literal["test", "val"]
    segments: Annotated[int, Field(ge=1, le=1000)]
    crops: Literal[1, 3]
    batch: Count
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)]
    failure_budget: Probability


class ComputeParams(Group):
    """How this machine runs it. Not a dependency of any DVC stage: results do not become stale by it."""

    device: Literal["auto", "cpu", "cuda"]
    ranks: Annotated[int, Field(ge=1, le=1024)]
    threads_per_rank: Workers | None
    loader_workers: Annotated[int, Field(ge=0, le=1024)]
    cluster: Place | None
    data_parallel: Literal["ddp", "fsdp"]
    compile: bool
    activation_checkpointing: bool
    stall_seconds: Positive
    max_restarts: Annotated[int, Field(ge=0, le=1000)]


class CompareParams(Group):
    """Strategies side by side; the first is the one the others are compared with, and sets the budget.

    `benchmarks`: fine-tuned and tested on these; None is all.
    """

    strategies: Annotated[list[str], Field(min_length=1, max_length=100)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)]
    equal: Literal["multiply-adds", "wall-time", "epochs"]
    benchmarks: Annotated[list[str], Field(min_length=1)] | None

    @model_validator(mode="after")
    def _each_once_and_known(self) -> CompareParams:
        for name in ("strategies", "seeds", "benchmarks"):
            values = getattr(self, name) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{name} = {values}: one is named twice. Cure: name each once.")
        for name in self.strategies:
            if not _is_compared(name):
                raise ValueError(
                    f"strategies names {name!r}, which is unknown. Cure: {names.nearest(name, compared_strategies())} "
                    f"All: {', '.join(compared_strategies())}; everest-keep-0.4 for another ratio."
                )
        return self


def _is_compared(name: str) -> bool:
    head, separator, ratio = name.partition("-keep-")
    overrides = compared_strategies().get(head)
    if not separator or overrides is None:
        return overrides is not None
    try:
        return "pretrain.strategy" in overrides and "pretrain.keep_ratio" not in overrides and 0 < float(ratio) <= 1
    except ValueError:
        return False
