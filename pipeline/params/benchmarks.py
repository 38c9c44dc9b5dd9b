"""A benchmark of params.yaml: where its videos are from, and what it sets for itself in the stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.params import names
from pipeline.params.groups import (
    Count,
    Crops,
    Group,
    Learning,
    NonNegative,
    Place,
    Positive,
    Probability,
    Ratio,
    Repeats,
    Seed,
    Segments,
)

#: Class counts that the publishers fix (DATASETS: UCF101, HMDB51, Kinetics-400, SSv2, Ego4D OSCC).
PUBLISHED_CLASSES = {"ucf101": 101, "hmdb51": 51, "k400": 400, "ssv2": 174, "oscc": 2}
GENERATED_CLASSES = {"motion": 8, "state_change": 2}


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
    mirrors: list[Place] = Field([], max_length=100)
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
    repeated_augmentation: Repeats | None = None
    keep_ratio: Ratio | None = None
    train: Learning | None = None
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    lora_alpha: Positive | None = None
    label_fraction: Ratio | None = None
    validate_split: Literal["val", "test"] | None = None
    select: Literal["last", "best"] | None = None
    patience: Count | None = None


class EvaluateOverrides(Group):
    """Fields of `evaluate` that one benchmark sets for itself."""

    split: Literal["test", "val"] | None = None
    segments: Segments | None = None
    crops: Crops | None = None


class BenchmarkParams(Group):
    """All three groups are written out, if only as `{}`: DVC watches each of them."""

    data: DataParams
    finetune: FinetuneOverrides
    evaluate: EvaluateOverrides
