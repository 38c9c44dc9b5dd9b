"""The groups of params.yaml as frozen pydantic models: every key, its type and its bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticKnownError

from pipeline.params import names, rand_augment
from pipeline.params.parts.kinds import (
    Beta,
    Count,
    Group,
    NonNegative,
    Positive,
    Probability,
    Ratio,
    Seed,
    Workers,
)
from pipeline.params.parts.monitor import MonitorParams
from pipeline.strategies import FINETUNING, PRETRAINING, arm_overrides, compared_strategies

#: [px], [frame] of a token's edge and depth.
PATCH, TUBELET = 16, 2


def _whole_number(value: object) -> object:
    """`Literal[1, 3]` alone would take `true` and `1.0`, which are equal to 1."""
    if type(value) is not int:
        raise PydanticKnownError("literal_error", {"expected": "1 or 3"})
    return value


Repeats = Annotated[int, Field(ge=1, le=100)]
Segments = Annotated[int, Field(ge=1, le=1000)]
Crops = Annotated[Literal[1, 3], BeforeValidator(_whole_number)]
#: A folder or a file, wherever it lies.
Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(names.printable_text)]
Learning = Annotated[str, Field(max_length=20), AfterValidator(lambda text: _learning(text))]
Size = Literal["tiny", "mini", "small", "base", "large", "huge"]

#: `finetune.train` for the last N blocks.
LAST_BLOCKS = re.compile(r"last-([1-9]\d{0,2})")
if TYPE_CHECKING:
    PretrainStrategy: TypeAlias = str
    FinetuneStrategy: TypeAlias = str
else:
    PretrainStrategy, FinetuneStrategy = Literal[PRETRAINING], Literal[FINETUNING]


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


def _learning(text: str) -> str:
    if text in ("all", "norm", "head") or LAST_BLOCKS.fullmatch(text):
        return text
    raise ValueError(
        f"{text!r}, expected all, last-N (the last N blocks), norm or head. Cure: one of them, for example last-2."
    )


class ClipParams(Group):
    """The clip that every model of the experiment sees; `source` is where all stages read its frames.

    `input` is what a model sees of it: pictures, or the grey differences between them. Fingerprints of before it was
    there hold, since the default is left out of them.
    """

    source: Literal["cache", "videos"]
    frames: Annotated[int, Field(ge=4, le=1024)]
    resolution: Annotated[int, Field(ge=32, le=2048)]
    input: Literal["rgb", "difference"] = Field(default="rgb", exclude_if=lambda value: value == "rgb")

    @model_validator(mode="after")
    def _whole_tokens(self) -> ClipParams:
        if self.frames % TUBELET:
            raise ValueError(f"frames = {self.frames} must be even: a tubelet takes two. Cure: {self.frames + 1}.")
        if self.resolution % PATCH:
            cure = max(32, round(self.resolution / PATCH) * PATCH)
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


class TrainingParams(Group):
    """What pre-training and fine-tuning have in common: schedule, optimizer, augmentation, what a bad step does.

    `score_share` gives each clip a budget of its own, the fewest tokens that hold this share of its score; None: all
    clips keep `keep_ratio`.
    """

    keep_ratio: Ratio
    score_share: Ratio | None = None
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
    flip: Probability
    repeated_augmentation: Repeats
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint_every_steps: Count
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: Count


class PretrainParams(TrainingParams):
    """Masked pre-training; `monitor` looks at it and changes nothing: no stage depends on it."""

    corpus: Annotated[list[str], Field(min_length=1)]
    size: Size
    decoder_depth: Annotated[int, Field(ge=1, le=100)]
    strategy: PretrainStrategy
    visible_ratio: Ratio
    frame_selection: FrameSelection
    scales: Annotated[list[Ratio], Field(min_length=1, max_length=100)]
    monitor: MonitorParams = Field(default_factory=MonitorParams)


class FinetuneParams(TrainingParams):
    """Fine-tuning of one model for each benchmark.

    Attributes:
        frozen: five heads at five learning rates over an encoder that learns nothing (a probe).
        train: what learns beside pooling, last norm and head; `lora_rank`, `lora_alpha`: adapters that learn as well.
        balance: classes of unequal size: weights in the loss, or drawn equally often.
        label_fraction: share of each class's training videos that is used (low-shot protocol); 1 is all.
        patience: validations in a row without a better top-1 score after which training ends; null: none.
    """

    init: Annotated[Place, AfterValidator(_inside_or_absolute)]
    strategy: FinetuneStrategy
    head: Literal["mean", "attentive", "places"]
    frozen: bool
    train: Learning = "all"
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    lora_alpha: Positive = 16.0
    balance: Literal["none", "weights", "sampling"] = "none"
    label_fraction: Ratio
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
    validate_split: Literal["val", "test"]
    validate_every_epochs: Count
    select: Literal["last", "best"]
    patience: Count | None = None

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


class EvaluateParams(Group):
    """`split` is `val` where a test split has no public labels (Something-Something v2, OSCC).

    `strategy` tests the trained weights with another token strategy; null: with that of their training. Params of runs
    before the last four keys were known mean none of it: only these have defaults.
    """

    split: Literal["test", "val"]
    segments: Annotated[int, Field(ge=1, le=1000)]
    crops: Crops
    batch: Count
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)]
    failure_budget: Probability
    budgets: Annotated[list[Ratio], Field(max_length=20)] = Field(default_factory=list)
    budget_videos: Count = 400
    calibration_videos: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    strategy: FinetuneStrategy | None = None


class BudgetParams(Group):
    """What a run may take; null: not bounded by it. See docs/status.md."""

    hours: Positive | None = None
    gpu_hours: Positive | None = None
    kwh: Positive | None = None
    eur: Positive | None = None


class CompareParams(Group):
    """Strategies side by side; the first is the one the others are compared with, and sets the budget.

    `benchmarks`: fine-tuned and tested on these; None is all. `stop: futile`: pre-trainings run side by side in
    `slices` of their budget, and one that cannot win any more at this `confidence` is stopped (pipeline/verdict).
    """

    strategies: Annotated[list[str], Field(min_length=1, max_length=100)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)]
    equal: Literal["multiply-adds", "wall-time", "epochs"]
    benchmarks: Annotated[list[str], Field(min_length=1)] | None
    stop: Literal["futile"] | None = None
    slices: Annotated[int, Field(ge=2, le=100)] = 5
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95

    @model_validator(mode="after")
    def _each_once_and_known(self) -> CompareParams:
        for name in ("strategies", "seeds", "benchmarks"):
            values = getattr(self, name) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{name} = {values}: one is named twice. Cure: name each once.")
        for name in self.strategies:
            if arm_overrides(name) is None:
                raise ValueError(
                    f"strategies names {name!r}, which is unknown. Cure: {names.nearest(name, compared_strategies())} "
                    f"All: {', '.join(compared_strategies())}; everest-keep-0.4 for another ratio, everest-share-0.6 "
                    "for a budget by clip."
                )
        return self
