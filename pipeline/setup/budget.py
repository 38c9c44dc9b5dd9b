"""Which model, resolution and epochs fit the hours on a device, as `everest plan` predicts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.planning.counts import Counts
from pipeline.planning.plan import StageRow
from pipeline.planning.stage_cost import StageCost
from pipeline.setup.machine import Machine
from pipeline.setup.values import FINETUNE_EPOCHS, PRETRAIN_EPOCHS, Facts, Shape

#: From the dearest to the cheapest; a set must have so many training videos for the first ones.
LADDER = (
    (Shape("large", 224), 100_000),
    (Shape("base", 224), 2_000),
    (Shape("small", 224), 0),
    (Shape("small", 160), 0),
    (Shape("mini", 112), 0),
    (Shape("mini", 96), 0),
    (Shape("tiny", 64), 0),
)
#: Passes and steps of pre-training, and of fine-tuning, below which a smaller model serves better: on a small set each
#: took thousands of steps to learn (docs/science.md). Ours: floors, no optimum.
LEAST_PRETRAIN, LEAST_FINETUNE = (100, 5000), (30, 2000)
#: Shares of the hours; the rest is for decoding, validation, test and the starts of stages, which take START_HOURS too.
PRETRAIN_SHARE, FINETUNE_SHARE, TEST_SHARE = 0.55, 0.25, 0.05
START_HOURS = 2 / 60
#: Share of the peak that no training here exceeds: what would not fit even then is not tried.
BEST_MFU = 0.6
#: Views of a test video: (segments, crops), the paper's first.
VIEWS = ((5, 3), (5, 1), (2, 1))


@dataclass(frozen=True)
class Training:
    """One training as planned: passes, the micro-batch's count, and what it takes."""

    epochs: int
    accumulate: int
    hours: float
    memory_gib: float
    possible: int


@dataclass(frozen=True)
class Fit:
    """What fits.

    Attributes:
        views: segments and crops of a test video.
        enough: whether both trainings get the passes without which little is learnt.
        dearer: shapes that were too much, with what they would take.
    """

    shape: Shape
    pretrain: Training
    finetune: Training
    views: tuple[int, int]
    enough: bool
    dearer: list[tuple[Shape, str]]


def fit(facts: Facts, machine: Machine, hours: float, draft: Callable[[Shape], Params], benchmark: str) -> Fit:
    """The dearest shape whose least passes fit the hours; else the cheapest, for as many as do.

    Args:
        hours: for the whole chain.
        draft: complete parameters for a shape, with any epochs.

    Raises:
        InputError: not even the cheapest fits the device's memory.
    """
    usable, least = max(0.2 * hours, hours - START_HOURS), least_passes(facts)
    counts = {benchmark: Counts(facts.train, facts.train, None, "counted", (facts.labelled,))}
    shapes = list(_shapes(facts))
    dearer: list[tuple[Shape, str]] = []
    for shape in shapes:
        params, last = draft(shape), shape == shapes[-1]
        needed = _least_hours(params, facts, machine, least[0])
        if needed > PRETRAIN_SHARE * usable and not last:
            dearer.append((shape, f"would take {shown_hours(needed)} and more for {least[0]} epochs"))
            continue
        rows = [machine.planner.row(StageCost(params, name), counts) for name in (None, benchmark)]
        if not all(row["fits"] for row in rows):
            if last:
                raise InputError(
                    f"not even the smallest model at {shape.resolution} pixels fits one {machine.device.name}. "
                    "Cure: --device with more memory."
                )
            dearer.append((shape, "does not fit its memory"))
            continue
        pretrain = _training(rows[0], facts.train, facts.batch, PRETRAIN_SHARE * usable, PRETRAIN_EPOCHS)
        fine = _training(rows[1], facts.labelled, facts.finetune_batch, FINETUNE_SHARE * usable, FINETUNE_EPOCHS)
        if last or (pretrain.possible >= least[0] and fine.possible >= least[1]):
            enough = pretrain.possible >= LEAST_PRETRAIN[0] and fine.possible >= LEAST_FINETUNE[0]
            clip = rows[1]["seconds_per_1000_clips"] / 1000 / 3
            return Fit(shape, pretrain, fine, _views(facts, clip, TEST_SHARE * usable), enough, dearer)
        needed = max(
            _hours(rows[0], facts.train, facts.batch) * least[0] / PRETRAIN_SHARE,
            _hours(rows[1], facts.labelled, facts.finetune_batch) * least[1] / FINETUNE_SHARE,
        )
        dearer.append((shape, f"needs {shown_hours(needed)} for {least[0]} and {least[1]} epochs"))
    raise AssertionError(shapes)


def _shapes(facts: Facts) -> Iterator[Shape]:
    """Those that the set is large enough for, its frames never enlarged."""
    side = max(32, facts.short_side // 16 * 16)
    shapes = [Shape(shape.size, min(shape.resolution, side)) for shape, videos in LADDER if facts.train >= videos]
    yield from dict.fromkeys(shapes)


def least_passes(facts: Facts) -> tuple[int, int]:
    """Epochs that pre-training and fine-tuning should have at least; never more than the paper's."""
    trainings = (
        (LEAST_PRETRAIN, facts.train // facts.batch, PRETRAIN_EPOCHS),
        (LEAST_FINETUNE, facts.labelled // facts.finetune_batch, FINETUNE_EPOCHS),
    )
    first, second = (min(papers, max(passes, math.ceil(steps / each))) for (passes, steps), each, papers in trainings)
    return first, second


def _least_hours(params: Params, facts: Facts, machine: Machine, passes: int) -> float:
    peak = (machine.device.single if params.pretrain.precision == "fp32" else machine.device.half) * machine.count
    work = 3 * 2 * StageCost(params, None).cost.multiply_adds * facts.train * passes
    return work / (peak * BEST_MFU) / 3600


def _hours(row: StageRow, videos: int, batch: int) -> float:
    """[h] of one pass."""
    return max(row["seconds_per_1000_clips"], 1e-3) / 1000 * (videos // batch * batch) / 3600


def _training(row: StageRow, videos: int, batch: int, hours: float, most: int) -> Training:
    each = _hours(row, videos, batch)
    possible = int(hours / each)
    epochs = max(1, min(most, possible))
    return Training(epochs, row["accumulate"], epochs * each, row["memory_gib"] or 0.0, min(most, possible))


def _views(facts: Facts, clip_seconds: float, hours: float) -> tuple[int, int]:
    videos = facts.test or facts.val
    views = [(1 if facts.whole else segments, crops) for segments, crops in VIEWS]
    for segments, crops in views:
        if videos * segments * crops * clip_seconds <= hours * 3600:
            return segments, crops
    return views[-1]


def shown_hours(hours: float) -> str:
    """A time as a reader says it."""
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours * 60 >= 1.5 else f"{hours * 3600:.0f} s"
