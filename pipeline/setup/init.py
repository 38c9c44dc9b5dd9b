"""`everest init FOLDER|CSV`: look at the videos, split them, choose values, and write params.yaml."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.params import IngestParams, Params, check_params, load_params
from pipeline.params.file import parse_mapping
from pipeline.params.names import benchmark_fault, recipe_name
from pipeline.recipes import PARAMS, recipe_path, show_recipe
from pipeline.setup.budget import LEAST_FINETUNE, LEAST_PRETRAIN, Fit, Training, fit, shown_hours
from pipeline.setup.evidence import chosen_by, evidence
from pipeline.setup.files import check_target, split_table, write
from pipeline.setup.groups import Groups, group
from pipeline.setup.look import OwnSet, look
from pipeline.setup.machine import AUTO, Machine, cores, machine
from pipeline.setup.split import Split, split
from pipeline.setup.text import params_text
from pipeline.setup.values import LEFT_EPOCHS, Facts, Shape, Value, clip_seconds, facts_of, tokens_of, values
from pipeline.setup.warnings import warnings
from pipeline.system.progress import Line
from pipeline.system.text import counted

#: The recipe whose values stand where nothing about the videos says otherwise.
RECIPE = "ucf101"
HOURS = 4.0


@dataclass(frozen=True)
class Setup:
    """What `everest init` did.

    Attributes:
        benchmark: name of the set in params.yaml.
        params, table, left_out: files written: parameters, list of videos with their splits, and of those not used.
        videos: usable ones.
        classes, splits: videos of each; `groups` of them are kept together, `groups_by` says by what they were found.
        warnings: what is wrong with the set, each a sentence.
        values: dotted key -> value and reason.
        device, devices: planned for.
        hours: predicted: of pre-training and fine-tuning together.
        next: commands that follow.
        seconds: that this call took.
    """

    benchmark: str
    params: str
    table: str
    left_out: str | None
    videos: int
    classes: dict[str, int]
    splits: dict[str, int]
    groups: int
    groups_by: dict[str, int]
    warnings: list[str]
    values: dict[str, Value]
    device: str
    devices: int
    hours: float
    next: list[str]
    seconds: float

    def lines(self) -> list[str]:
        """What a reader should know, below the warnings."""
        value = {key: each.value for key, each in self.values.items()}
        splits = ", ".join(f"{self.splits.get(name, 0)} {name}" for name in ("train", "val", "test"))
        by = ", ".join(f"{count} videos by {way}" for way, count in self.groups_by.items())
        return [
            f"{self.videos} videos of {len(self.classes)} classes: {splits}"
            + (f"; kept together: {by}." if by else "; no video belongs with another one."),
            f"{value['pretrain.size']} at {value['clip.resolution']} pixels, {value['pretrain.epochs']} epochs of "
            f"pre-training and {value['finetune.epochs']} of fine-tuning: about {shown_hours(self.hours)} on "
            f"{self.devices} x {self.device}.",
            f"written: {self.params} (each value with its reason), {self.table}"
            + (f", {self.left_out}" if self.left_out else ""),
            f"next: {', then '.join(self.next)}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what `--json` prints."""
        return asdict(self)


def init(
    place: Path | str,
    *,
    hours: float = HOURS,
    device: str = AUTO,
    gpus: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> Setup:
    """Write params.yaml for your own videos, and the list that splits them.

    Args:
        place: a folder with a folder for each class, or a CSV or Parquet table beside the videos.
        hours: that the whole chain may take.
        device: as `everest plan --gpu` takes it, or `auto` for this machine's.
        gpus: how many; all that are here if None.
        name: of the set; by default the folder's or the table's.
        force: overwrite a params.yaml that holds edits.

    Raises:
        InputError: nothing can be made of the videos, an unknown device, hours of none, a file in the way.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    began = time.monotonic()
    place = Path(place)
    if not 0 < hours <= 100_000:
        raise InputError(f"hours = {hours:g}, expected above 0 and at most 100000. Cure: --hours 4.")
    name = _name(place, name)
    check_target(force)
    devices = machine(device, gpus)
    rules = _rules()
    own = look(place, rules)
    groups = group(own.videos, own.similar())
    parted = split(own.videos, groups)
    facts = facts_of(own, parted, devices.count)
    line = Line("init")
    found = evidence(own, groups, parted, rules, lambda text: line.show(text, now=True))
    line.show("plans what fits the hours", now=True)
    table, content = split_table(own, parted, groups, name)
    benchmark = _benchmark(own, facts, table)

    def values_of(shape: Shape) -> dict[str, Value]:
        chosen = values(own, facts, devices, shape) | chosen_by(found, tokens_of(own, shape))
        return _named(name) | chosen

    def text_of(shape: Shape, more: Mapping[str, Value], header: list[str]) -> str:
        return params_text(show_recipe(RECIPE), name, {**values_of(shape), **more}, benchmark, header)

    def draft(shape: Shape) -> Params:
        return _checked(text_of(shape, {key: Value(1, "") for key in LEFT_EPOCHS}, []))

    best = fit(facts, devices, hours, draft, name)
    fitted = _fitted(facts, best, devices, hours)
    step = facts.frame_step.value
    said = [
        *warnings(own, groups, parted, step if isinstance(step, int) else 1, clip_seconds(own)),
        *_too_short(best, hours),
        *_busy(devices),
    ]
    text = text_of(best.shape, fitted, _header(own, parted, groups, devices, best, said, place))
    _checked(text)
    line.close()
    left_out = write(own, table, content, text, name)
    return Setup(
        benchmark=name,
        params=str(PARAMS),
        table=str(table),
        left_out=left_out,
        videos=len(own.videos),
        classes=own.classes(),
        splits=dict(Counter(parted.of.values())),
        groups=groups.count(),
        groups_by=groups.joined,
        warnings=said,
        values={f"benchmarks.{name}.data.{key}": value for key, value in benchmark.items()}
        | values_of(best.shape)
        | fitted,
        device=devices.device.name,
        devices=devices.count,
        hours=round(best.pretrain.hours + best.finetune.hours, 4),
        next=[f"dvc repro baseline@{name}", "everest plan", "everest run"],
        seconds=round(time.monotonic() - began, 2),
    )


def _rules() -> IngestParams:
    """The recipe's rules with this machine's cores: those that params.yaml will have."""
    return load_params(recipe_path(RECIPE), {"ingest.workers": cores()}).ingest


def _name(place: Path, name: str | None) -> str:
    if name is None:
        stem = place.resolve().name if place.is_dir() else place.stem
        name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40] or "mine"
        name = f"{name}_1" if benchmark_fault(name) else name
    if fault := benchmark_fault(name):
        raise InputError(fault)
    try:
        return recipe_name(name)
    except ValueError as error:
        raise InputError(f"--name {error}") from None


def _checked(text: str) -> Params:
    return check_params(parse_mapping(text, PARAMS), str(PARAMS))


def _named(name: str) -> dict[str, Value]:
    return {
        "recipe": Value(name, "names the experiment and its models"),
        "pretrain.corpus": Value([name], "its training videos, without their labels"),
    }


def _benchmark(own: OwnSet, facts: Facts, table: Path) -> dict[str, Value]:
    source = {"kind": "folder", "path": str(own.folder), "annotations": str(table)}
    return {
        "dataset": Value("folder", "your own videos"),
        "split": Value(1, "the table has one"),
        "classes": Value(len(own.classes()), "with usable videos" + "; a video may have several" * own.several),
        "frame_step": facts.frame_step,
        "source": Value(source, "videos stay where they are; the table says class and split of each"),
    }


def _fitted(facts: Facts, best: Fit, devices: Machine, hours: float) -> dict[str, Value]:
    """The values that the planner's prediction decides."""
    on = f"{devices.count} x {devices.device.name}"
    dearer = "".join(f"{shape.size} at {shape.resolution} pixels {need}" for shape, need in best.dearer[-1:])
    size = f"the largest that fits {hours:g} h on {on}" + (f": {dearer}" if dearer else f", for {facts.train} videos")
    pixels = best.shape.resolution
    cause = "paper" if pixels == 224 else f"the median short side is {facts.short_side}" if (
        pixels == facts.short_side // 16 * 16) else f"what fits {hours:g} h on {on} (paper: 224)"  # fmt: skip
    steps = {"pretrain": facts.train // facts.batch, "finetune": facts.labelled // facts.finetune_batch}
    fitted = {
        "pretrain.size": Value(best.shape.size, size if best.enough else f"the smallest: {hours:g} h are little"),
        "clip.resolution": Value(pixels, f"[px] {cause}"),
        "evaluate.segments": Value(
            best.views[0],
            ("the clip is the whole video" if facts.whole else "clips over time of a test video") + " (paper: 5)",
        ),
        "evaluate.crops": Value(best.views[1], "of each clip (paper: 3)"),
    }
    for stage, training, paper, warmup in (
        ("pretrain", best.pretrain, "3200", 40.0), ("finetune", best.finetune, "100", 5.0),
    ):  # fmt: skip
        count = training.epochs * steps[stage]
        every = max(10, min(1000, round(count / max(training.hours * 6, 1e-6))))
        apart = f"about every {shown_hours(every * training.hours / count)}"
        fitted |= {
            f"{stage}.epochs": Value(
                training.epochs,
                f"about {shown_hours(training.hours)} of {hours:g} h, {counted(count, 'step')}, as `everest plan` "
                f"predicts (paper: {paper})",
            ),
            f"{stage}.warmup_epochs": Value(
                min(warmup, round(training.epochs / 10, 1)), f"a tenth of the epochs, at most the paper's {warmup:g}"
            ),
            f"{stage}.accumulate": Value(training.accumulate, _memory(training, devices)),
            f"{stage}.checkpoint_every_steps": Value(every, apart if every < count else "more than it has: at its end"),
        }
    every = max(1, best.finetune.epochs // 10)
    fitted["finetune.validate_every_epochs"] = Value(every, f"{counted(best.finetune.epochs // every, 'time')} in all")
    return fitted


def _memory(training: Training, devices: Machine) -> str:
    return f"{training.memory_gib:.2g} of {devices.device.memory_gib:.0f} GiB, as `everest plan` predicts"


def _too_short(best: Fit, hours: float) -> list[str]:
    if best.enough:
        return []
    trainings = {"pre-training": best.pretrain, "fine-tuning": best.finetune}
    once = " and ".join(
        f"one of {name} takes {shown_hours(training.hours)}"
        for name, training in trainings.items()
        if not training.possible
    )
    return [
        f"{hours:g} h are little for these videos: they are enough for {counted(best.pretrain.possible, 'epoch')} of "
        f"pre-training and {best.finetune.possible} of fine-tuning with the smallest model"
        + (f" ({once}, and is planned all the same)" if once else "")
        + f", and below {LEAST_PRETRAIN[0]} and {LEAST_FINETUNE[0]} little is learnt. "
        "Cure: --hours with more, or another --device."
    ]


def _busy(devices: Machine) -> list[str]:
    load = os.getloadavg()[0]
    if not devices.is_cpu or load < 1.5 * cores():
        return []
    return [
        f"This machine is busy (load {load:.0f} on {cores()} cores): a few training steps were measured beside that, "
        "so fewer epochs fit than would on an idle one. Cure: `everest init` again when it is idle."
    ]


def _header(
    own: OwnSet, parted: Split, groups: Groups, devices: Machine, best: Fit, said: list[str], place: Path
) -> list[str]:
    splits = Counter(parted.of.values())
    return [
        f"Written by `everest init` for {place}: {len(own.videos)} videos of {len(own.classes())} classes, "
        f"{own.findings.hours * 60:.1f} minutes;",
        f"{devices.count} x {devices.device.name} ({devices.reason}); predicted: pre-training "
        f"{shown_hours(best.pretrain.hours)}, fine-tuning {shown_hours(best.finetune.hours)}.",
        f"Split by {groups.count()} groups: "
        + ", ".join(f"{splits[name]} {name}" for name in ("train", "val", "test"))
        + ".",
        'Each value has its reason; "paper" and "ours" as in recipes/ucf101.yaml. Little data? Official weights',
        "(`everest convert-checkpoint`) as finetune.init are a better start than any pre-training on few videos.",
        *(f"! {sentence}" for sentence in said),
    ]
