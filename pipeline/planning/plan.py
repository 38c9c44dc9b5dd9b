"""`everest plan`: what a recipe takes on given devices, before anything runs.

Multiply-adds and memory are computed; step time is the largest of four bounds: arithmetic at a measured or assumed
share of the device's peak, the launches of a GPU's kernels and decoding at measured rates, and the exchange of
gradients. Every assumption is in the result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.budget.account import keep_plan, planned, verdict
from pipeline.budget.limit import BudgetRow
from pipeline.efficiency.meters import DEVICES, GIB
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.consistency import PRETRAINED
from pipeline.planning.calibration import Share
from pipeline.planning.counts import Counts, counts_of, given
from pipeline.planning.stage_cost import (
    CORES_PER_DEVICE,
    USABLE_MEMORY,
    StageCost,
    check_share,
    launch_words,
    loading_seconds,
    loading_words,
    planned_params,
)
from pipeline.planning.step_time import GRADIENT_BYTES

#: [byte] of one cached frame at short side 256: JPEG at quality 90, raw RGB at 340x256.
FRAME_BYTES = {"jpeg": 30e3, "raw": 340 * 256 * 3}
#: Checkpoints on disk at once: the last three, the best, and one being written.
CHECKPOINTS = 5

#: A benchmark's videos. `from` says where the counts come from, `cure` how to give those that are unknown.
CountRow = TypedDict(
    "CountRow",
    {"benchmark": str, "train": int | None, "all": int | None, "frames": int | None, "from": str, "cure": str | None},
)


class StageRow(TypedDict):
    """What a stage takes; `steps` and `hours` are None where the count of videos is unknown."""

    stage: str
    devices: int
    gmacs_per_clip: float
    tokens_per_clip: int
    parameters_m: float
    global_batch: int
    batch_per_device: int
    accumulate: int
    memory_gib: float | None
    fits: bool
    step_seconds: float
    mfu: float
    mfu_from: str
    bound_by: str
    seconds_per_1000_clips: float
    videos: int | None
    steps: int | None
    hours: float | None
    clips_per_second_needed: float
    cure: str | None


class Disk(TypedDict):
    """[GiB] of the caches (None where a count is unknown) and of checkpoints at once."""

    cache: float | None
    cache_per_1000_frames: float
    checkpoints: float


class Plan(TypedDict):
    recipe: str
    device: str
    devices: int
    hours_total: float | None
    videos: list[CountRow]
    stages: list[StageRow]
    disk_gib: Disk
    budget: list[BudgetRow]
    verdict: str
    assumptions: list[str]


def plan(
    recipe: str | None = None,
    gpu: str | None = None,
    gpus: int | None = None,
    mfu: float | None = None,
    memory: bool = True,
    videos: Sequence[str] = (),
    calibration: Path | None = None,
) -> Plan:
    """Predict cost, memory, time and disk of a recipe's stages, and whether they fit `compute.budget`.

    Args:
        recipe: a recipe's name; None for params.yaml.
        gpu: a key of `pipeline.efficiency.meters.DEVICES`, or `cpu` for this machine; None for compute.planned_for.
        gpus: how many devices (processes, on a CPU) for every stage; None for those that compute gives each.
        mfu: share of the peak to assume; None for the one measured on such a device, else ASSUMED_MFU.
        memory: follow a training step's memory (some seconds); without, batches are not proposed.
        calibration: shares that `everest bench gpu` measured; None for those that came with this version.
        videos: `NAME=VIDEOS` or `NAME=VIDEOSxFRAMES` of benchmarks whose counts nothing here tells.

    Raises:
        InputError: an unknown device, no devices, a share outside (0, 1], a batch that does not divide among them.
    """
    check_device(gpu or "cpu", 1 if gpus is None else gpus)
    params = planned_params(recipe)
    gpu = gpu or params.compute.planned_for
    check_share(mfu)
    known = given(videos, params)
    counts = {name: counts_of(params, name, known) for name in params.benchmarks}
    planners: dict[int, Planner] = {}
    rows = []
    for name in (*([None] if params.finetune.init == PRETRAINED else ()), *params.benchmarks):
        count = gpus or params.compute.ranks_of("finetune" if name else "pretrain") * params.compute.nodes
        if count not in planners:
            planners[count] = Planner(gpu, count, mfu, memory, calibration)
        rows.append(planners[count].row(StageCost(params, name), counts))
    planner = planners[rows[0]["devices"]]
    taken = [(row["hours"], row["devices"]) for row in rows if row["hours"] is not None]
    counted = len(taken) == len(rows)
    hours_total = sum(hours for hours, _ in taken) if counted else None
    device_hours = sum(hours * devices for hours, devices in taken) if counted else None
    budget = planned(params, hours_total, device_hours, planner.device.watts, gpu != "cpu")
    if recipe is None:
        keep_plan(params, budget)
    return {
        "recipe": params.recipe,
        "device": planner.device.name,
        "devices": planner.devices,
        "hours_total": None if hours_total is None else round(hours_total, 4),
        "videos": [_count_row(name, one) for name, one in counts.items()],
        "stages": rows,
        "disk_gib": _disk(params, rows, counts),
        "budget": budget if params.compute.budget or params.compute.eur_per_gpu_hour else [],
        "verdict": verdict(budget),
        "assumptions": _assumptions(planner, rows, params),
    }


def _count_row(name: str, counts: Counts) -> CountRow:
    return {
        "benchmark": name,
        "train": counts.train,
        "all": counts.total,
        "frames": None if counts.frames is None else round(counts.frames),
        "from": counts.origin,
        "cure": None if counts.train and counts.frames else f"say it: --videos {name}=VIDEOSxFRAMES",
    }


def check_device(gpu: str, gpus: int) -> None:
    """Refuse a device that nothing is known of.

    Raises:
        InputError: an unknown device, or no devices.
    """
    if gpu != "cpu" and gpu not in DEVICES:
        raise InputError(f"gpu = {gpu!r}, expected one of {', '.join([*DEVICES, 'cpu'])}. Cure: choose one of them.")
    if gpus < 1:
        raise InputError(f"gpus = {gpus}, expected at least 1. Cure: give the number of devices.")


class Planner:
    """The devices, and what is given of them; see :func:`plan`."""

    def __init__(
        self,
        gpu: str,
        devices: int,
        mfu: float | None = None,
        memory: bool = True,
        calibration: Path | None = None,
    ) -> None:
        self.here = gpu == "cpu"
        self.devices, self.mfu, self.memory, self.calibration = devices, mfu, memory, calibration
        if self.here:
            from pipeline.planning.rate import this_cpu

            self.device = this_cpu(devices)
        else:
            self.device = DEVICES[gpu]

    def row(self, cost: StageCost, counts: Mapping[str, Counts]) -> StageRow:
        """One stage's prediction."""
        stage, videos = cost.stage, cost.videos(counts)
        if stage.batch % (self.devices * cost.fewest):
            pairs = " in pairs of videos, which mixup and cutmix mix" if cost.fewest > 1 else ""
            raise InputError(
                f"{cost.name}: a global batch of {stage.batch} does not divide among {self.devices} devices{pairs}. "
                "Cure: another --gpus, or compute.gpus for this stage."
            )
        if videos is not None and videos < stage.batch:
            raise InputError(
                f"{cost.name}: {videos} training videos are fewer than its batch of {stage.batch}: an epoch has no "
                "step. Cure: a smaller batch."
            )
        memory = cost.memory(self.devices, not self.here) if self.memory else None
        micro, accumulate = stage.batch // self.devices, 1
        if memory is not None:
            micro, accumulate = cost.micro_batch(self.devices, memory, self.device)
        parameters = memory.parameters if memory else 0
        share = self._share(cost, micro)
        bounds = self._bounds(cost, parameters - (memory.frozen if memory else 0), share.mfu, accumulate)
        step = max(bounds.values())
        steps = None if videos is None else stage.epochs * (videos // stage.batch)
        taken = memory.at(micro * stage.repeated_augmentation) if memory else 0.0
        return {
            "stage": f"finetune {cost.benchmark}" if cost.benchmark else "pretrain",
            "devices": self.devices,
            "gmacs_per_clip": round(cost.cost.multiply_adds / 1e9, 3),
            "tokens_per_clip": cost.cost.encoder_tokens,
            "parameters_m": round(parameters / 1e6, 2),
            "global_batch": stage.batch,
            "batch_per_device": micro,
            "accumulate": accumulate,
            "memory_gib": round(taken / GIB, 2) if micro else None,
            "fits": micro > 0,
            "step_seconds": round(step, 4),
            "mfu": round(share.mfu, 4),
            "mfu_from": share.origin,
            "bound_by": max(bounds, key=lambda name: bounds[name]),
            "seconds_per_1000_clips": round(1000 * step / cost.clips, 3),
            "videos": videos,
            "steps": steps,
            "hours": None if steps is None else round(steps * step / 3600, 4),
            "clips_per_second_needed": round(cost.clips / step, 1),
            "cure": None
            if micro
            else f"{'two videos do' if cost.fewest > 1 else 'one clip does'} not fit: set "
            "compute.activation_checkpointing, or data_parallel: fsdp",
        }

    def _share(self, cost: StageCost, micro: int) -> Share:
        if self.here and self.mfu is None and micro:
            return cost.share_here(micro, self.device, self.devices)
        return cost.share(self.device, self.mfu, self.calibration)

    def _bounds(self, cost: StageCost, learned: int, mfu: float, accumulate: int) -> dict[str, float]:
        """[s] that each part alone would take for one optimizer step; they overlap, so the largest counts."""
        cores = len(os.sched_getaffinity(0)) if self.here else CORES_PER_DEVICE * self.devices
        loading = loading_seconds(cost.params.preprocess.store, cost.params.clip.frames, gpu=not self.here)
        sent = 2 * (self.devices - 1) / self.devices * GRADIENT_BYTES * learned
        return {
            "arithmetic": cost.arithmetic_seconds(self.device, mfu, self.devices),
            "launches": 0.0 if self.here else cost.launch_seconds(accumulate),
            "decoding": cost.clips * loading / cores,
            "exchange": sent / self.device.link,
        }


def _disk(params: Params, rows: Sequence[StageRow], counts: Mapping[str, Counts]) -> Disk:
    frame = FRAME_BYTES[params.preprocess.store] * (params.preprocess.short_side / 256) ** 2
    kept = {name: _kept(params, name) for name in counts}
    frames = [
        None if c.total is None or c.frames is None else c.total * c.frames / kept[name] for name, c in counts.items()
    ]
    known = [number for number in frames if number is not None]
    cache = None if len(known) < len(frames) else round(sum(known) * frame / GIB, 2)
    weights = max((row["parameters_m"] for row in rows), default=0.0) * 1e6
    return {
        "cache": cache,
        "cache_per_1000_frames": round(1000 * frame / min(kept.values(), default=1) / GIB, 4),
        "checkpoints": round(weights * 12 * CHECKPOINTS / GIB, 2),
    }


def _kept(params: Params, benchmark: str) -> int:
    """Of so many frames of a benchmark's videos the cache holds one."""
    step = params.benchmark(benchmark).data.frame_step
    if params.preprocess.frames == "informative":
        return step if isinstance(step, int) else 1
    return params.preprocess.keep_every if params.preprocess.frames == "every" else 1


def _assumptions(planner: Planner, rows: Sequence[StageRow], params: Params) -> list[str]:
    device, store, frames = planner.device, params.preprocess.store, params.clip.frames
    shares = "; ".join(f"{row['stage']} {row['mfu']:.2f}, {row['mfu_from']}" for row in rows)
    return [
        f"peak of {device.name}: {device.half / 1e12:.4g} TFLOP/s half, {device.single / 1e12:.4g} "
        f"single ({device.source})",
        f"share of the peak: {shares}"
        + ("" if planner.here else "; the published K400 epochs on 8 A6000 amount to about 0.04"),
        ("this machine's cores" if planner.here else f"{CORES_PER_DEVICE} cores for each device")
        + f" load clips; {loading_words(store, frames, gpu=not planner.here)}",
        *([] if planner.here else [launch_words(params.compute.compile == "graphs")]),
        f"{100 * USABLE_MEMORY:.0f} % of device memory is usable; AdamW in fp32; under FSDP its states shared evenly",
        f"energy of a plan: {device.watts:g} W for each device, its maker's most, all the time"
        if device.watts
        else "energy: not planned, the power of this device is not known",
        "where a benchmark has neither a manifest nor files here, its videos are as published, else unknown; "
        "validation is not counted",
    ]
