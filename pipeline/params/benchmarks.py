"""A benchmark of params.yaml: where its videos are from, what it sets for itself, what is published of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

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

#: Data sets that `benchmarks.<name>.data.dataset` may name.
Dataset = Literal["generated", "folder", "ucf101", "hmdb51", "k400", "ssv2", "oscc"]


@dataclass(frozen=True, kw_only=True)
class PublishedBenchmark:
    """A benchmark as its publisher describes it.

    Attributes:
        classes: how many; the publisher fixes them.
        train: training videos by official split.
        videos: of all splits.
        frames: mean frames of a video, rounded.
        labelled: splits with public labels.
        listed: videos on the official lists by split and role, compared and reported, never enforced.
        files: video files of a whole copy, where that is worth comparing.
    """

    classes: int
    train: Mapping[int, int]
    videos: int
    frames: int
    labelled: tuple[str, ...] = ("train", "val")
    listed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    files: int | None = None

    @property
    def splits(self) -> int:
        """Official splits over which results are averaged."""
        return len(self.train)


PUBLISHED: dict[str, PublishedBenchmark] = {
    "ucf101": PublishedBenchmark(
        classes=101,
        train={1: 9_537, 2: 9_586, 3: 9_624},
        videos=13_320,
        frames=186,
        labelled=("train", "test"),
        listed={
            "1": {"train": 9_537, "test": 3_783},
            "2": {"train": 9_586, "test": 3_734},
            "3": {"train": 9_624, "test": 3_696},
        },
        files=13_320,
    ),
    "hmdb51": PublishedBenchmark(
        classes=51,
        train={1: 3_570, 2: 3_570, 3: 3_570},
        videos=6_766,
        frames=95,
        labelled=("train", "test"),
        listed={split: {"train": 3_570, "test": 1_530, "unused": 1_666} for split in ("1", "2", "3")},
        files=6_766,
    ),
    # The lists name more videos than the publisher's copy holds: the rest is missing there by design.
    "k400": PublishedBenchmark(
        classes=400,
        train={1: 240_258},
        videos=298_824,
        frames=290,
        labelled=("train", "val", "test"),
        listed={"1": {"train": 246_534, "val": 19_906, "test": 39_805}},
    ),
    "ssv2": PublishedBenchmark(classes=174, train={1: 168_913}, videos=220_847, frames=46, files=220_847),
    "oscc": PublishedBenchmark(classes=2, train={1: 41_000}, videos=97_000, frames=240),
}
GENERATED_CLASSES = {"motion": 8, "state_change": 2}


class SceneParams(Group):
    """What the scene of a drawn video is made of.

    Attributes:
        mover_share: of the picture, that the moving object covers in the mean.
        camera: [pixels of a picture of 96] deviation of the camera's step from frame to frame, in each direction.
        noise: deviation of each pixel, as a share of its range.
        distractors: objects like the mover that rest.
    """

    mover_share: Annotated[float, Field(ge=0.01, le=0.6)]
    camera: Annotated[float, Field(ge=0, le=4)]
    noise: Annotated[float, Field(ge=0, le=0.2)]
    distractors: Annotated[int, Field(ge=0, le=8)]


class GeneratedSource(Group):
    """Videos drawn by this project as real H.264 files, the same for the same seed.

    Attributes:
        scene: what is drawn; null: a large smooth object over a still, smooth picture (`pipeline.data.sources.draw`).
    """

    kind: Literal["generated"]
    task: Literal["motion", "state_change"]
    seed: Seed
    train: Count
    val: Count
    test: Count
    frames: Annotated[int, Field(ge=4, le=10_000)]
    size: Annotated[int, Field(ge=32, le=512)]
    scene: SceneParams | None = None


class FolderSource(Group):
    """Videos that already lie in a folder; `annotations` is a CSV/Parquet file, or None for a folder per class."""

    kind: Literal["folder"]
    path: Place
    annotations: Place | None = None


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) if parts.scheme in ("http", "https", "s3") else parts.scheme == "file"


class OfficialSource(Group):
    """The publisher's own addresses (or `mirrors`, tried first); `limit` fetches that many videos only."""

    kind: Literal["official"]
    mirrors: list[Place] = Field([], max_length=100)
    profile: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    limit: Count | None = None

    @field_validator("mirrors")
    @classmethod
    def _addresses_without_logins(cls, mirrors: list[str]) -> list[str]:
        for number, mirror in enumerate(mirrors):
            if "@" in mirror.partition("://")[2].partition("/")[0]:
                raise ValueError(
                    f"address {number} holds a login, which git, dvc.lock and every tracked run would keep. "
                    "Cure: put it into ~/.netrc, and only the host here."
                )
            if not _is_address(mirror):
                raise ValueError(
                    f"address {number} is none. Cure: https://HOST/FOLDER, s3://BUCKET/FOLDER or file:///FOLDER."
                )
        return mirrors


class ByTime(Group):
    """Frames of a clip by time, where the rates of videos differ: all clips span so many seconds."""

    clip_seconds: Annotated[float, Field(ge=0.01, le=3600)]


class ByShare(Group):
    """Frames of a clip over a share of its video, however long: 1 is the whole of it (uniform sampling)."""

    clip_share: Annotated[float, Field(ge=0.01, le=1)]


#: Kinds of a frame step: in pydantic's place of a fault, and no key.
STEP_KINDS = ("by number", "by time", "by share")


def _kind_of_step(value: object) -> str:
    by_share = isinstance(value, ByShare) or (isinstance(value, dict) and "clip_share" in value)
    return STEP_KINDS[2 if by_share else isinstance(value, dict | ByTime)]


FrameStep = Annotated[int, Field(ge=1, le=10_000), Tag("by number")]
SecondsStep = Annotated[ByTime, Tag("by time")]
ShareStep = Annotated[ByShare, Tag("by share")]


class DataParams(Group):
    """What one benchmark's videos are and how a clip is cut from them.

    Attributes:
        frame_step: frames from one of a clip to the next; or `{clip_seconds: 2.0}`, by time; or
            `{clip_share: 1.0}`, over the whole of each video.
    """

    dataset: Dataset
    raw: Annotated[str, AfterValidator(names.folder_below)] | None = None
    split: Annotated[int, Field(ge=1, le=3)]
    classes: Annotated[int, Field(ge=2, le=100_000)]
    frame_step: Annotated[FrameStep | SecondsStep | ShareStep, Discriminator(_kind_of_step)]
    source: Annotated[GeneratedSource | FolderSource | OfficialSource, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _classes_fit_the_dataset(self) -> DataParams:
        source = self.source
        if isinstance(source, GeneratedSource):
            expected, what = GENERATED_CLASSES[source.task], f"the generated task {source.task!r}"
        elif self.dataset in PUBLISHED:
            expected, what = PUBLISHED[self.dataset].classes, f"dataset {self.dataset!r}"
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
    score_share: Ratio | None = None
    train: Learning | None = None
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    lora_alpha: Positive | None = None
    balance: Literal["none", "weights", "sampling"] | None = None
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
