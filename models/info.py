"""What `model.json` says of a model: all that its use takes besides the weights.

Whoever makes a model writes it (pre-training, fine-tuning, conversion, export), and whoever uses one reads it there and
nowhere else: names of classes from the folder in which a command happens to run would be another data set's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

from models.strategies import STRATEGIES
from models.tokens import IMAGENET_MEAN, IMAGENET_STD

#: 2: with classes, frame step, views and pixels for every model; what was written before has no version.
VERSION = 2
#: Note of a classifier whose classes are decisions of their own (sigmoids), since a video may have several.
MULTI_LABEL = "multi_label"
#: Notes of a model whose clips are cut by time, or over a share of the video: seconds, or share, from one frame to the
#: next, by benchmark for a pre-training. `frame_step` is then None, or has the other benchmarks only.
FRAME_SECONDS, FRAME_SHARE = "frame_seconds", "frame_share"
#: How frames are resized, the only way there is.
RESIZE = "bilinear, antialiased, 8 bits"
#: What says how a model is used, in the words of model.json.
FIELDS = ("version", "architecture", "kwargs", "stage", "dataset", "classes", "frame_step", "views", "pixels")
CURE = (
    "Cure: `everest convert-checkpoint FOLDER NEW_FOLDER --unverified --classes FILE --frame-step N` writes it whole, "
    "or train it again."
)


class ModelArguments(TypedDict, total=False):
    """The keyword arguments of `EverestAutoencoder` and `EverestClassifier`, each under the name it has there.

    Which of the two takes one, and what it is by default, their signatures say.
    """

    img_size: int
    num_frames: int
    patch_size: int
    tubelet_size: int
    in_chans: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    num_classes: int
    strategy: str
    keep_ratio: float
    visible_ratio: float
    score_share: float | None
    head: str
    drop_path_rate: float
    fc_drop_rate: float
    init_scale: float
    clip_input: str


class PixelsEntry(TypedDict):
    """`Pixels` as JSON holds them."""

    resolution: int
    short_side: int | None
    resize: str
    mean: list[float]
    deviation: list[float]


class Description(TypedDict, total=False):
    """A model.json as it is read: this version's fields, hashes, and what former versions wrote; any other is a note.

    `models.weights` compares the hashes, `ModelInfo.parse` checks the fields.
    """

    version: int
    architecture: str
    kwargs: ModelArguments
    stage: str
    dataset: str | list[str] | None
    classes: list[str] | None
    frame_step: int | dict[str, int] | None
    views: dict[str, int]
    pixels: PixelsEntry
    part: Literal["encoder"]
    weights_sha256: str
    description_sha256: str
    benchmark: str
    short_side: int | None


@dataclass(frozen=True)
class Views:
    """How a video's test views are cut.

    Attributes:
        segments, crops: clips over time, and square crops of each.
        grid: clips start on multiples of this frame number, as a cache that stores every `grid`-th frame has them.
    """

    segments: int = 1
    crops: int = 1
    grid: int = 1


@dataclass(frozen=True)
class Pixels:
    """What becomes of a decoded frame before the model sees it.

    Attributes:
        resolution: [pixels] side of the square that the model sees.
        short_side: [pixels] larger frames are first shrunk to it; None leaves them as they are.
        resize, mean, deviation: of RGB in [0, 1].
    """

    resolution: int
    short_side: int | None
    resize: str = RESIZE
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class ModelInfo:
    """The record of one model.

    Attributes:
        architecture, kwargs: its timm name and arguments, the token strategy and its ratios among them.
        stage: "pretrain" or "finetune".
        dataset: the benchmark that it was trained on; several for a pre-training, None where nobody said.
        classes: names by class number; None for a pre-training, or where nobody said.
        frame_step: frames from one of a clip to the next; by benchmark for a pre-training, None where nobody said.
        notes: further entries of model.json, kept as they are.
    """

    architecture: str
    kwargs: ModelArguments
    stage: str
    dataset: str | tuple[str, ...] | None
    classes: tuple[str, ...] | None
    frame_step: int | Mapping[str, int] | None
    views: Views
    pixels: Pixels
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ValueError(f"{'; '.join(faults)}. {CURE}")

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return int(self.kwargs["num_frames"])

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart; 0 for a pre-training model or an encoder without a head."""
        return int(self.kwargs.get("num_classes", 0))

    @property
    def temperature(self) -> float | None:
        """T of p^(1/T), normalised, as it was fitted on validation videos; None where none was."""
        note = self.notes.get("temperature")
        return float(note["value"]) if isinstance(note, Mapping) else None

    @property
    def multi_label(self) -> bool:
        """Whether its logits go through a sigmoid each, rather than through one softmax."""
        return self.notes.get(MULTI_LABEL) is True

    @classmethod
    def parse(cls, info: Description, where: str) -> ModelInfo:
        """The record that was read from `where`.

        Raises:
            ValueError: it is of an earlier or later version, lacks a field, or its fields contradict one another.
        """
        version = info.get("version", 1)
        if version != VERSION:
            lacking = [name for name in FIELDS[3:] if name not in info]
            what = f", without {', '.join(lacking)}" if lacking else ""
            raise ValueError(f"{where}: version {version!r} of model.json{what}; expected version {VERSION}. {CURE}")
        if lacking := [name for name in FIELDS if name not in info]:
            raise ValueError(f"{where} lacks {', '.join(lacking)}. {CURE}")
        try:
            classes, dataset, pixels = info["classes"], info["dataset"], info["pixels"]
            mean, deviation = tuple(pixels["mean"]), tuple(pixels["deviation"])
            return cls(
                info["architecture"],
                info["kwargs"],
                info["stage"],
                tuple(dataset) if isinstance(dataset, list) else dataset,
                tuple(classes) if isinstance(classes, list) else classes,
                info["frame_step"],
                Views(**info["views"]),
                replace(Pixels(**pixels), mean=mean, deviation=deviation),  # type: ignore[arg-type]
                {name: value for name, value in info.items() if name not in FIELDS},
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"{where}: views or pixels have other entries than expected ({error}). {CURE}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, object]:
        """The record as model.json holds it."""
        pixels = vars(self.pixels) | {"mean": list(self.pixels.mean), "deviation": list(self.pixels.deviation)}
        return {
            "version": VERSION,
            "architecture": self.architecture,
            "kwargs": dict(self.kwargs),
            "stage": self.stage,
            "dataset": list(self.dataset) if isinstance(self.dataset, tuple) else self.dataset,
            "classes": None if self.classes is None else list(self.classes),
            "frame_step": self.frame_step,
            "views": dict(vars(self.views)),
            "pixels": pixels,
            **self.notes,
        }

    def tested_with(self, segments: int, crops: int, grid: int, notes: Mapping[str, object]) -> ModelInfo:
        """The record with the views that a test used, and further notes."""
        return replace(self, views=Views(segments, crops, grid), notes={**self.notes, **notes})

    def _faults(self) -> list[str]:
        kwargs, classes, step = self.kwargs, self.classes, self.frame_step
        if not isinstance(kwargs, Mapping):
            return [f"kwargs = {kwargs!r}, expected the arguments by name"]
        faults = []
        if self.stage not in ("pretrain", "finetune"):
            faults.append(f"stage = {self.stage!r}, expected 'pretrain' or 'finetune'")
        faults += [
            f"kwargs.{name} = {kwargs.get(name)!r}, expected a whole number from 1 on"
            for name in ("img_size", "num_frames")
            if not _count(kwargs.get(name))
        ]
        strategy = STRATEGIES.get(kwargs.get("strategy", ""))
        if strategy is None and self.notes.get("part") != "encoder":  # which chooses no tokens
            faults.append(f"kwargs.strategy = {kwargs.get('strategy')!r}, expected one of {', '.join(STRATEGIES)}")
        elif strategy is not None and strategy.uses_keep_ratio and "keep_ratio" not in kwargs:
            faults.append(f"kwargs lack keep_ratio, which the strategy {strategy.name} needs")
        if classes is not None:
            if not isinstance(classes, tuple) or not all(isinstance(name, str) and name for name in classes):
                faults.append(f"classes = {classes!r}, expected a list of names")
            elif len(classes) != self.num_classes:
                faults.append(f"classes has {len(classes)} names, expected num_classes = {self.num_classes}")
            elif len(set(classes)) != len(classes):
                twice = next(name for number, name in enumerate(classes) if name in classes[:number])
                faults.append(f"classes names {twice!r} more than once")
        steps = list(step.values()) if isinstance(step, Mapping) and self.stage == "pretrain" else [step]
        if step is not None and not all(map(_count, steps)):
            faults.append(f"frame_step = {step!r}, expected a whole number from 1 on")
        if not isinstance(self.notes.get(MULTI_LABEL, False), bool):
            faults.append(f"{MULTI_LABEL} = {self.notes[MULTI_LABEL]!r}, expected true or false")
        for name, unit in ((FRAME_SECONDS, "seconds"), (FRAME_SHARE, "a share")):
            own = self.notes.get(name)
            each = own.values() if isinstance(own, Mapping) and self.stage == "pretrain" else [own]
            if own is not None and not all(map(_positive, each)):
                faults.append(f"{name} = {own!r}, expected {unit} above 0")
        for name, value in vars(self.views).items():
            if not _count(value):
                faults.append(f"views.{name} = {value!r}, expected a whole number from 1 on")
        pixels = self.pixels
        if pixels.resolution != kwargs.get("img_size"):
            faults.append(f"pixels.resolution = {pixels.resolution!r}, expected img_size = {kwargs.get('img_size')!r}")
        if pixels.short_side is not None and not _count(pixels.short_side):
            faults.append(f"pixels.short_side = {pixels.short_side!r}, expected a whole number from 1 on, or null")
        note = self.notes.get("temperature")
        if note is not None and not (isinstance(note, Mapping) and _positive(note.get("value"))):
            faults.append(f"temperature = {note!r}, expected an entry whose value is a number above 0")
        expected = {"resize": RESIZE, "mean": IMAGENET_MEAN, "deviation": IMAGENET_STD}
        for name, value in expected.items():
            if getattr(pixels, name) != value:
                faults.append(f"pixels.{name} = {getattr(pixels, name)!r}, this version knows {value!r} only")
        return faults


class KnownFields(TypedDict, total=False):
    """What a checkpoint says of its use, in the words of `ModelInfo`; what it does not say is left out or None."""

    dataset: str | tuple[str, ...] | None
    classes: tuple[str, ...] | None
    frame_step: int | Mapping[str, int] | None
    views: Views
    notes: Mapping[str, object]
    short_side: int | None


def known_fields(info: Description, where: str) -> KnownFields:
    """What a model.json says beside architecture and arguments, to be carried over where the model is converted.

    One without a version is read as it was written then: models in the registry held classes, frame step, views and
    short side, what a training left only the frame step.

    Raises:
        ValueError: it is of a later version, or its fields contradict one another.
    """
    if "version" in info:
        full = ModelInfo.parse(info, where)
        return {
            "dataset": full.dataset,
            "classes": full.classes,
            "frame_step": full.frame_step,
            "views": full.views,
            "notes": full.notes,
            "short_side": full.pixels.short_side,
        }
    views = info.get("views") or {}
    known: KnownFields = {"views": Views(**{name: views[name] for name in ("segments", "crops") if name in views})}
    if (dataset := info.get("benchmark")) is not None:
        known["dataset"] = dataset
    if classes := info.get("classes"):
        known["classes"] = tuple(classes)
    if (step := info.get("frame_step")) is not None:
        known["frame_step"] = step
    if (side := info.get("short_side")) is not None:
        known["short_side"] = side
    return known


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
