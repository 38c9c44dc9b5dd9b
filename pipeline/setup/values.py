"""The values of params.yaml that depend on the videos, the device and the time, each with its reason."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audit.changes import CLIP_SECONDS
from pipeline.audit.changes import frame_step as clip_step
from pipeline.audit.costs import visible_share
from pipeline.audit.record import CLIP_FRAMES
from pipeline.data.video.shrink import shrunk_size
from pipeline.efficiency.meters import GIB
from pipeline.errors import InputError
from pipeline.params import flatten, load_params
from pipeline.params.groups import PATCH, TUBELET
from pipeline.recipes import recipe_path
from pipeline.setup.look import OwnSet
from pipeline.setup.machine import Machine, cores
from pipeline.setup.split import Split
from pipeline.system.files import free_bytes
from pipeline.system.text import counted

#: The paper's batches (UCF101), passes and share of the change that a keep ratio should hold.
PRETRAIN_BATCH, FINETUNE_BATCH, PRETRAIN_EPOCHS, FINETUNE_EPOCHS, KEPT_CHANGE = 192, 128, 3200, 100, 0.8
#: Keys that only the planner's prediction decides.
LEFT_EPOCHS = tuple(
    f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("epochs", "warmup_epochs", "accumulate")
)
#: Steps of an epoch that a batch leaves: few videos learn by many small steps (docs/science.md). A device is not given
#: fewer clips than SHARE for that, but where not even FEWEST_STEPS were left.
STEPS, SHARE, FEWEST_STEPS = 20, 16, 4
#: Sizes that the paper has not, by the recipe that was found for them; what is taken from there, and the paper's value.
SMALL = {"tiny": "drawn", "mini": "demo"}
TRIED = {
    "pretrain.decoder_depth": "",
    "pretrain.base_lr": ": at batch 256 (paper: 1e-3)",
    "finetune.base_lr": ": at batch 256 (paper: 1e-3)",
    "finetune.layer_decay": " (paper: 0.75)",
    "finetune.drop_path": " (paper: 0.1)",
    "finetune.rand_augment": ", which has few passes to learn in (paper: m7-n4-mstd0.5-inc1)",
    "finetune.random_erasing": ", which has few passes to learn in (paper: 0.25)",
    "finetune.crop_scale": ", which has few passes to learn in (paper: 0.08 to 1)",
}
#: Tokens that pre-training shows at least where the paper's shares are taken.
LEAST_SHOWN = 6
#: Share of the free disk that raw frames may take.
RAW_SHARE = 0.25
#: Validation videos from which the best checkpoint is chosen by them: with a hundred chance chose (docs/science.md).
CHOOSING = 500
#: A mirror turns these classes into one another.
_SIDES = re.compile(r"(left|right)(wards?|hand(ed)?)?|(counter|anti)?clockwise|a?cw|ccw|links|rechts", re.I)
#: Where a word ends within TurnLeft or PTZLeft.
_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Value:
    """A value of params.yaml and why it is that."""

    value: object
    reason: str


@dataclass(frozen=True)
class Shape:
    """What a clip costs: the model's size and the clip's resolution [px]."""

    size: str
    resolution: int


#: Ratio of the highest to the lowest rate above which frames are taken by time: 29.97 and 30 count as one.
VARIED_RATES = 1.1
#: [s] The most that params.yaml takes for a clip.
LONGEST = 3600.0


@dataclass(frozen=True)
class Facts:
    """A set in numbers.

    Attributes:
        train, labelled: training videos of pre-training, and of fine-tuning; `val`, `test`: labelled ones.
        fps, frames, short_side: medians.
        frame_step: frames from one of a clip to the next, `{clip_share: 1.0}` of short videos or
            `{clip_seconds: ...}` where rates vary, with its reason.
        whole: whether each clip is the whole of its video.
        batch, finetune_batch: that leave some steps to an epoch.
    """

    train: int
    labelled: int
    val: int
    test: int
    fps: float
    frames: int
    short_side: int
    frame_step: Value
    whole: bool
    batch: int
    finetune_batch: int


def facts_of(dataset: OwnSet, split: Split, devices: int) -> Facts:
    """The numbers that values are chosen by.

    Raises:
        InputError: fewer training videos than devices.
    """
    counts = Counter(split.of[video.path] for video in dataset.videos if video.label)
    train = sum(split.of[video.path] == "train" for video in dataset.videos)
    return Facts(
        train=train,
        labelled=counts["train"],
        val=counts["val"],
        test=counts["test"],
        fps=float(np.median([video.fps for video in dataset.videos])),
        frames=int(np.median([video.frames for video in dataset.videos])),
        short_side=int(np.median([video.short_side for video in dataset.videos])),
        frame_step=_frame_step(dataset),
        whole=dataset.whole,
        batch=_batch(train, PRETRAIN_BATCH, devices),
        finetune_batch=_batch(counts["train"], FINETUNE_BATCH, devices),
    )


def clip_seconds(own: OwnSet) -> float | None:
    """Seconds that a clip spans, where frames are to be taken by time since rates vary; else None.

    Long enough for the median rate to have a clip's frames in it, but no longer than the median video.
    """
    rates = np.array([video.fps for video in own.videos])
    if own.whole or rates.max() <= VARIED_RATES * rates.min():
        return None
    median = float(np.median([video.frames / video.fps for video in own.videos]))
    wanted = max(CLIP_SECONDS, float(math.ceil(own.clip_frames / float(np.median(rates)))))
    return min(wanted, LONGEST) if median >= wanted else max(0.1, min(round(median, 1), LONGEST))


def _frame_step(dataset: OwnSet) -> Value:
    if dataset.whole:
        median = float(np.median([video.frames / video.fps for video in dataset.videos]))
        return Value(
            {"clip_share": 1.0},
            f"each clip is the whole of its video: the median has {median:.1f} s, so that each seems one action, cut "
            "out (the paper: a frame step)",
        )
    seconds = clip_seconds(dataset)
    if seconds is not None:
        rates = [video.fps for video in dataset.videos]
        enough = seconds * float(np.median(rates)) >= dataset.clip_frames
        longer = f", so that the median rate has {dataset.clip_frames} frames in it"
        short = ", since the median video is no longer"
        why = "" if seconds == CLIP_SECONDS else longer if enough and seconds > CLIP_SECONDS else short
        return Value(
            {"clip_seconds": seconds},
            f"frames by time, since rates vary from {min(rates):.3g} to {max(rates):.3g} a second: each clip spans "
            f"{seconds:g} s{why} (the paper counts frames, in videos of one rate)",
        )
    fps = float(np.median([video.fps for video in dataset.videos]))
    frames = int(np.median([video.frames for video in dataset.videos]))
    # As the audit chooses it for one video; clips of fewer frames reach as far with a larger step.
    step = max(1, clip_step(fps, frames) * CLIP_FRAMES // dataset.clip_frames)
    step = min(step, max(1, frames // dataset.clip_frames))
    spans = dataset.clip_frames * step / fps
    shrunk = "" if spans > 0.9 * CLIP_SECONDS else f", since the median video has {frames / fps:.1f} s"
    return Value(step, f"[frames] a clip spans {spans:.1f} s at {fps:.3g} frames a second{shrunk}")


def _batch(videos: int, paper: int, devices: int) -> int:
    """One that leaves steps to an epoch and divides among the devices; the paper's at most.

    A usual one where that goes; else the largest multiple of the devices.
    """
    most = min(paper, videos // FEWEST_STEPS, max(videos // STEPS, SHARE * devices))
    for batch in (paper, 128, 96, 64, 48, 32, 24, 16, 8, 4, 2, 1):
        if batch <= most and batch % devices == 0:
            return batch
    if most // devices:
        return most // devices * devices
    if videos < devices:
        raise InputError(
            f"{videos} training videos cannot be shared by {devices} devices. Cure: --gpus {max(1, videos)}."
        )
    return devices


def values(dataset: OwnSet, facts: Facts, machine: Machine, shape: Shape) -> dict[str, Value]:
    """Dotted key -> value and reason, but for epochs and accumulation, which take the planner's prediction."""
    kept, shown, keep_reason = _ratios(dataset, shape)
    precision = Value("fp32", "a CPU has no fast half precision") if machine.is_cpu else Value("bf16", "as in ucf101")
    frames_reason = (
        "paper" if dataset.clip_frames == CLIP_FRAMES else "paper: 16, which would lose more than 20 % of these"
    )
    mirrored = sorted(name for name in dataset.classes() if names_a_side(name))
    flip = Value(0.0, f"a mirror turns classes such as {mirrored[0]!r} into others") if mirrored else None
    chosen = {
        "clip.frames": Value(dataset.clip_frames, f"[frames] {frames_reason}"),
        "ingest.min_frames": Value(
            dataset.min_frames,
            "as clip.frames" if dataset.min_frames == dataset.clip_frames else "half a clip, which shows each twice",
        ),
        "ingest.workers": Value(cores(), "cores of this machine"),
        **_storage(dataset, shape),
        "preprocess.workers": Value(cores(), "cores of this machine"),
        "pretrain.size": Value(shape.size, ""),
        "clip.resolution": Value(shape.resolution, ""),
        "pretrain.keep_ratio": Value(kept, keep_reason),
        "pretrain.visible_ratio": Value(shown, "paper: 0.1, a third of what is kept" if shown <= 0.1 else "ours, as in "
                                        "the recipe drawn, for clips of few tokens"),
        "pretrain.batch": Value(facts.batch, _batch_reason(facts.batch, PRETRAIN_BATCH, facts.train)),
        "pretrain.precision": precision,
        "finetune.batch": Value(
            facts.finetune_batch, _batch_reason(facts.finetune_batch, FINETUNE_BATCH, facts.labelled)
        ),
        "finetune.precision": precision,
        "evaluate.batch": Value(16 if machine.is_cpu else 64, "clips of the test that go through the model together"),
        "compute.planned_for": Value(machine.key, "what `everest plan` reckons with where no --gpu is given"),
        "compute.ranks": Value(machine.count, f"{machine.device.name}: {machine.reason}"),
        "compute.loader_workers": Value(
            0 if machine.is_cpu else max(1, min(8, cores() // machine.count)),
            "on a CPU the model needs the cores" if machine.is_cpu else "cores of this machine for each device",
        ),
        "compare.seeds": Value([0], "of `everest compare`; three tell how much seeds differ"),
        **_splits(facts),
    }  # fmt: skip
    if recipe := SMALL.get(shape.size):
        known = flatten(load_params(recipe_path(recipe)))
        chosen |= {
            key: Value(known[key], f"as in the recipe {recipe}, for this size{why}") for key, why in TRIED.items()
        }
    if flip is not None:
        chosen["finetune.flip"] = flip
    if dataset.whole:
        chosen["pretrain.frame_selection.window"] = Value("fixed", "clips of the whole video have no room to grow")
    return chosen


def names_a_side(name: str) -> bool:
    """Whether a word of a class's name is turned into another one by a mirror."""
    return any(map(_SIDES.fullmatch, re.findall(r"[^\W\d_]+", _CASE.sub(" ", name))))


def _ratios(dataset: OwnSet, shape: Shape) -> tuple[float, float, str]:
    """Shares of tokens that pre-training keeps and shows, by the redundancy found."""
    findings, tokens = dataset.findings, tokens_of(dataset, shape)
    if 0.1 * tokens < LEAST_SHOWN:
        return 0.5, 0.2, f"ours, as in the recipe drawn: a clip has {tokens} tokens, few to drop (paper: 0.3)"
    if shape.resolution < 160:
        return 0.3, 0.1, "paper"
    kept = findings.kept_at(0.3)
    if kept >= 0.6:
        return 0.3, 0.1, f"paper; these videos keep {kept:.0%} of their change in 30 % of the tokens"
    need = min(0.6, max(0.3, round(findings.needed_at(KEPT_CHANGE), 2)))
    reason = f"keeps about {KEPT_CHANGE:.0%} of the change" if need < 0.6 else "as much as EVEREST can drop with sense"
    return need, visible_share(need), f"{reason}: 30 % (paper) would keep {kept:.0%}"


def tokens_of(dataset: OwnSet, shape: Shape) -> int:
    """Tokens of a clip."""
    return dataset.clip_frames // TUBELET * (shape.resolution // PATCH) ** 2


def _batch_reason(batch: int, paper: int, videos: int) -> str:
    if batch == paper:
        return "global; paper"
    return (
        f"global (paper: {paper}), so that {counted(videos, 'video')} make {counted(videos // batch, 'step')} an epoch"
    )


def _storage(dataset: OwnSet, shape: Shape) -> dict[str, Value]:
    side = shape.resolution * 8 // 7 // 2 * 2
    raw = jpeg = 0.0
    for video in dataset.videos:
        record = dataset.records[video.path]
        height, width = shrunk_size(record.measurement.height, record.measurement.width, side)
        size = video.frames * height * width * 3
        raw += size
        full = shrunk_size(record.measurement.height, record.measurement.width, 256)
        if record.change is not None:
            jpeg += video.frames * record.change.jpeg_bytes * (height * width) / (full[0] * full[1])
    free = free_bytes(Path())
    roomy = raw <= RAW_SHARE * free
    sizes = f"raw {raw / GIB:.2g} GiB, jpeg {jpeg / GIB:.2g} GiB"
    reason = (
        f"read 14 times as fast as jpeg, and a quarter of the free disk is more: {sizes}"
        if roomy
        else f"raw would take more than a quarter of the free disk: {sizes}"
    )
    return {
        "preprocess.store": Value("raw" if roomy else "jpeg", reason),
        "preprocess.short_side": Value(side, "[px] 8/7 of the resolution, as the paper's 256 to 224"),
    }


def _splits(facts: Facts) -> dict[str, Value]:
    test = "test" if facts.test else "val"
    validate = "val" if facts.val else "test"
    best = validate == "val" and test == "test" and facts.val >= CHOOSING
    last = (
        f"{counted(facts.val, 'validation video')}: too few to choose by, and the rate ends near 0"
        if facts.test
        else "the test reads val too, for want of test videos: the best of it would be chosen by the test"
    )
    return {
        "evaluate.split": Value(test, counted(facts.test or facts.val, "video")),
        "finetune.validate_split": Value(
            validate,
            counted(facts.val, "video") if facts.val else "no group was left for validation; it chooses nothing",
        ),
        "finetune.select": Value(
            "best" if best else "last",
            f"the best of {facts.val} validation videos" if best else last,
        ),
    }  # fmt: skip
