"""The frozen mirror of params.yaml: every number of an experiment, checked before anything runs.

Unknown keys, wrong types and values out of bounds are refused with one message each that names the key,
the value, the bound and the cure. Imports only pydantic and PyYAML, so that flows can validate without torch.
"""

from __future__ import annotations

import difflib
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import InputError
from pipeline.strategies import strategy_facts

Ratio = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
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
    names: dict[str, dict[str, Any]] = {}
    for name in PRETRAINING:
        facts = strategy_facts()[name]
        overrides: dict[str, Any] = {"pretrain.strategy": name}
        if not facts.uses_keep_ratio:
            overrides["pretrain.keep_ratio"] = 1.0
        if facts.selects_frames:
            names[facts.label] = overrides
            names[f"{facts.label}-all-frames"] = {**overrides, "pretrain.frame_selection.mode": "none"}
        else:
            names[facts.label] = {**overrides, "pretrain.frame_selection.mode": "none"}
    return {**names, "scratch": {"finetune.init": SCRATCH}}


class Group(BaseModel):
    """A group of parameters: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GeneratedSource(Group):
    """Videos drawn by this project as real H.264 files, the same for the same seed."""

    kind: Literal["generated"]
    task: Literal["motion", "state_change"]
    seed: int
    train: Count
    val: Count
    test: Count
    frames: Annotated[int, Field(ge=4)]
    size: Annotated[int, Field(ge=32, le=512)]


class FolderSource(Group):
    """Videos that already lie in a folder; `annotations` is a CSV/Parquet file, or None for a folder per class."""

    kind: Literal["folder"]
    path: str
    annotations: str | None = None


class OfficialSource(Group):
    """The publisher's own addresses (or `mirrors`, tried first); `limit` fetches that many videos only."""

    kind: Literal["official"]
    mirrors: list[str] = []
    profile: str | None = None
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
    raw: str | None = None
    split: Annotated[int, Field(ge=1, le=3)]
    classes: Annotated[int, Field(ge=2)]
    frame_step: Count
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
    repeated_augmentation: Count | None = None
    keep_ratio: Ratio | None = None
    label_fraction: Ratio | None = None
    validate_split: Literal["val", "test"] | None = None
    select: Literal["last", "best"] | None = None


class EvaluateOverrides(Group):
    """Fields of `evaluate` that one benchmark sets for itself."""

    split: Literal["test", "val"] | None = None
    segments: Count | None = None
    crops: Literal[1, 3] | None = None


class BenchmarkParams(Group):
    """All three groups are written out, if only as `{}`: DVC watches each of them."""

    data: DataParams
    finetune: FinetuneOverrides
    evaluate: EvaluateOverrides


class ClipParams(Group):
    """The clip that every model of the experiment sees; `source` is where all stages read its frames."""

    source: Literal["cache", "videos"]
    frames: Annotated[int, Field(ge=4)]
    resolution: Annotated[int, Field(ge=32)]

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
    workers: Count


class PreprocessParams(Group):
    """Distance maps and cached frames. `keep_every` k stores every k-th frame; `store` how a frame is kept;
    `map_weights` is a model folder whose tubelet embedding makes the maps, null a seeded random one."""

    store: Literal["jpeg", "raw"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    short_side: Annotated[int, Field(ge=16)]
    frames: Literal["all", "every", "informative"]
    keep_every: Count
    map_source: Literal["pixels", "embedding"]
    map_weights: str | None
    shard_mib: Count
    workers: Count


class FrameSelection(Group):
    """Information-intensive frame selection (METHOD section 3)."""

    mode: Literal["none", "cached", "online"]
    oversample: Annotated[float, Field(ge=1, le=8)]
    window: Literal["grow", "fixed"]


class PretrainParams(Group):
    corpus: Annotated[list[str], Field(min_length=1)]
    size: Size
    decoder_depth: Count
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
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative
    clip_grad: Positive | None
    scales: Annotated[list[Ratio], Field(min_length=1)]
    flip: Probability
    repeated_augmentation: Count
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint_every_steps: Count
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: Count

    @model_validator(mode="after")
    def _visible_within_keep(self) -> PretrainParams:
        if strategy_facts()[self.strategy].uses_keep_ratio and self.visible_ratio >= self.keep_ratio:
            raise ValueError(
                f"visible_ratio = {self.visible_ratio} must be smaller than keep_ratio = {self.keep_ratio}: the "
                "tokens that are kept but not shown are the ones to reconstruct. Cure: lower visible_ratio or "
                "raise keep_ratio (paper: 0.1 and 0.3)."
            )
        return self


class FinetuneParams(Group):
    """`label_fraction`: share of each class's training videos that is used (low-shot protocol); 1 is all."""

    init: str
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
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: NonNegative
    clip_grad: Positive | None
    layer_decay: Ratio
    drop_path: Probability
    fc_dropout: Probability
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    mixup: NonNegative
    cutmix: NonNegative
    rand_augment: str | None
    random_erasing: Probability
    crop_scale: Annotated[list[Ratio], Field(min_length=2, max_length=2)]
    crop_ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    flip: Probability
    repeated_augmentation: Count
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
    segments: Count
    crops: Literal[1, 3]
    batch: Count
    bootstrap: Annotated[int, Field(ge=100)]
    failure_budget: Probability


class ComputeParams(Group):
    """How this machine runs it. Not a dependency of any DVC stage: results do not become stale by it."""

    device: Literal["auto", "cpu", "cuda"]
    ranks: Count
    threads_per_rank: Count | None
    loader_workers: Annotated[int, Field(ge=0)]
    cluster: str | None
    data_parallel: Literal["ddp", "fsdp"]
    compile: bool
    activation_checkpointing: bool
    stall_seconds: Positive
    max_restarts: Annotated[int, Field(ge=0)]


class CompareParams(Group):
    """Strategies side by side; the first is the one the others are compared with, and sets the budget.

    `benchmarks`: fine-tuned and tested on these; None is all.
    """

    strategies: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
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
                    f"strategies names {name!r}, which is unknown. Cure: {_nearest(name, compared_strategies())} "
                    f"All: {', '.join(compared_strategies())}; everest-keep-0.4 for another ratio."
                )
        return self


class Params(Group):
    """The whole of params.yaml."""

    recipe: str
    seed: Annotated[int, Field(ge=0)]
    benchmarks: Annotated[dict[str, BenchmarkParams], Field(min_length=1)]
    clip: ClipParams
    ingest: IngestParams
    preprocess: PreprocessParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    compare: CompareParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        for key in self.benchmarks:
            if not key.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"benchmarks.{key}: a benchmark's name may hold letters, digits, '-' and '_' only: it "
                    "names folders. Cure: rename it."
                )
        for key in self.pretrain.corpus:
            if key not in self.benchmarks:
                raise ValueError(
                    f"pretrain.corpus names {key!r}, which is not one of benchmarks: "
                    f"{', '.join(self.benchmarks)}. Cure: {_nearest(key, self.benchmarks)}"
                )
        if self.preprocess.short_side < self.clip.resolution:
            raise ValueError(
                f"preprocess.short_side = {self.preprocess.short_side} is smaller than clip.resolution = "
                f"{self.clip.resolution}: cached frames would be enlarged. Cure: raise short_side."
            )
        return self

    def finetune_of(self, benchmark: str) -> FinetuneParams:
        """The fine-tuning parameters of one benchmark: `finetune` with that benchmark's own values on top."""
        own = self.benchmark(benchmark).finetune.model_dump(exclude_none=True)
        return self.finetune.model_copy(update=own)

    def evaluate_of(self, benchmark: str) -> EvaluateParams:
        """The evaluation parameters of one benchmark."""
        own = self.benchmark(benchmark).evaluate.model_dump(exclude_none=True)
        return self.evaluate.model_copy(update=own)

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
                f"Cure: {_nearest(key, self.benchmarks)}"
            )
        return self.benchmarks[key]


def load_params(path: Path | str = "params.yaml", overrides: dict[str, Any] | None = None) -> Params:
    """Read and check a params file.

    Args:
        path: a YAML file with the keys of :class:`Params`.
        overrides: dotted key -> value, applied before the check (`{"finetune.epochs": 2}`).

    Raises:
        InputError: the file is missing or not YAML, or a key or value is wrong; one line for each fault.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist. Cure: run in the project's root, or `everest recipe use demo` to write it."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Cure: mend that line.") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {type(raw).__name__}, expected a mapping. Cure: `everest recipe use demo`.")
    for key, value in (overrides or {}).items():
        _set_dotted(raw, key, value)
    return check_params(raw, str(path))


def check_params(raw: dict[str, Any], origin: str = "params") -> Params:
    """Validate an already parsed mapping; see :func:`load_params`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(origin, item) for item in error.errors()]
        raise InputError("\n".join(lines)) from None


def known_keys() -> list[str]:
    """All dotted keys of params.yaml; `benchmarks.*` stands for any benchmark."""
    return sorted(_walk(Params, ""))


def flatten(params: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay whole."""
    items = params.model_dump() if isinstance(params, BaseModel) else params
    flat: dict[str, Any] = {}
    for key, value in items.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def nearest_key(key: str) -> str:
    """A cure for an unknown dotted key: the nearest one that exists."""
    return _nearest(key, known_keys())


def _is_compared(name: str) -> bool:
    head, separator, ratio = name.partition("-keep-")
    overrides = compared_strategies().get(head)
    if not separator or overrides is None:
        return overrides is not None
    try:
        return "pretrain.strategy" in overrides and "pretrain.keep_ratio" not in overrides and 0 < float(ratio) <= 1
    except ValueError:
        return False


def _set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node: Any = raw
    for part in parents:
        # A missing group is created, so that validation names it; its keys are checked there.
        if isinstance(node, dict) and not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[last] = value


def _explain(origin: str, item: Any) -> str:
    where = [str(part) for part in item["loc"] if str(part) not in ("generated", "folder", "official")]
    key = ".".join(where)
    if item["type"] == "extra_forbidden":
        return f"{origin}: {key}: unknown key. Cure: {nearest_key(key)}"
    if item["type"] == "missing":
        return f"{origin}: {key}: missing. Cure: add it; `everest recipe show demo` has an example."
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        return f"{origin}: {key + '.' if key else ''}{message}"
    message = item["msg"].replace("Input should be", "expected").strip()
    return f"{origin}: {key} = {item['input']!r}: {message}. Cure: set {key} within that bound."


def _nearest(key: str, known: Any) -> str:
    names = list(known)
    parts = key.split(".")
    if parts[0] == "benchmarks" and len(parts) > 1:
        names = [name.replace("*", parts[1], 1) for name in names]
    match = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    if not match:
        # The right group with a stray leaf, or the right leaf without its group.
        match = [name for name in names if name.rsplit(".", 1)[-1] == parts[-1]][:1]
    return f"did you mean {match[0]!r}?" if match else f"use one of: {', '.join(names[:12])}."


def _walk(group: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, field in group.model_fields.items():
        models = _models_in(field.annotation)
        if not models:
            keys.append(f"{prefix}{name}")
        middle = "*." if get_origin(field.annotation) is dict or "dict[" in str(field.annotation) else ""
        for model in models:
            keys += _walk(model, f"{prefix}{name}.{middle}")
    return list(dict.fromkeys(keys))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, dict, Annotated, list):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []
