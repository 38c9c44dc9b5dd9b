"""`everest plan`: what a recipe takes on given devices, before anything runs.

Multiply-adds and memory are computed; step time is the largest of three bounds: arithmetic at an assumed
share of the device's peak, decoding at a measured rate, and the exchange of gradients. Every assumption is in
the result.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.efficiency.clip_cost import autoencoder_arguments, classifier_arguments, finetune_cost, pretrain_cost
from pipeline.efficiency.meters import DEVICES, GIB, Device
from pipeline.efficiency.meters import mfu as utilisation
from pipeline.errors import InputError
from pipeline.params import FinetuneParams, Params, PretrainParams, load_params
from pipeline.planning.calibration import measured_share
from pipeline.planning.counts import Counts, counts_of, given
from pipeline.planning.measured import CLIP_SECONDS

if TYPE_CHECKING:
    from models.cost import Cost

#: Share of the peak that training reaches where none is given. Assumed, not measured on these devices.
ASSUMED_MFU = 0.30
#: Share of device memory that may be used; the rest is the CUDA context, NCCL's buffers and fragmentation.
USABLE_MEMORY = 0.88
#: [core] that read clips, for each device.
CORES_PER_DEVICE = 12
#: [byte] of one cached frame at short side 256: JPEG at quality 90, raw RGB at 340x256.
FRAME_BYTES = {"jpeg": 30e3, "raw": 340 * 256 * 3}
#: What `--gpu cpu` is called, and how much it tries out.
THIS_CPU = "this CPU"
TRIED_CLIPS, TRIED_SECONDS = 32, 1.5
#: [byte] for each parameter: fp32 value, gradient and AdamW's two moments.
STATE_BYTES = 16
#: Checkpoints on disk at once: the last three, the best, and one being written.
CHECKPOINTS = 5


def plan(
    recipe: str | None = None,
    gpu: str = "h100",
    gpus: int = 8,
    mfu: float | None = None,
    memory: bool = True,
    videos: list[str] | None = None,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """Predict cost, memory, time and disk of a recipe's stages.

    Args:
        recipe: a recipe's name; None for params.yaml.
        gpu: a key of `pipeline.efficiency.meters.DEVICES`, or `cpu` for this machine.
        gpus: how many devices (processes, on a CPU).
        mfu: share of the peak to assume; None for the one measured on such a device, else ASSUMED_MFU.
        memory: follow a training step's memory (some seconds); without, batches are not proposed.
        calibration: shares that `everest bench gpu` measured; None for those that came with this version.
        videos: `NAME=VIDEOS` or `NAME=VIDEOSxFRAMES` of benchmarks whose counts nothing here tells.

    Returns:
        `videos` (counts and where they are from), `stages` (a row each; steps and hours are None where the count is
        unknown, seconds for 1000 clips never), `disk_gib` and `assumptions`.

    Raises:
        InputError: an unknown device, or no devices.
    """
    check_device(gpu, gpus)
    from pipeline.recipes import recipe_path

    params = load_params(recipe_path(recipe) if recipe else Path("params.yaml"))
    if mfu is not None and not 0 < mfu <= 1:
        raise InputError(f"mfu = {mfu:g}, expected above 0 and at most 1. Cure: --mfu 0.3, or leave it out.")
    device = device_of(gpu, gpus)
    known = given(videos or [], params)
    counts = {name: counts_of(params, name, known) for name in params.benchmarks}
    rows = [
        stage_row(
            "pretrain" if name is None else "finetune", name, params, counts, device, gpus, mfu, memory, calibration
        )
        for name in (None, *params.benchmarks)
    ]
    hours = [row["hours"] for row in rows]
    return {
        "recipe": params.recipe,
        "device": device.name,
        "devices": gpus,
        "hours_total": None if None in hours else round(sum(hours), 4),
        "videos": [_count_row(name, one) for name, one in counts.items()],
        "stages": rows,
        "disk_gib": _disk(params, rows, counts),
        "assumptions": _assumptions(device, rows),
    }


def _count_row(name: str, counts: Counts) -> dict[str, Any]:
    row = {
        "benchmark": name,
        "train": counts.train,
        "all": counts.total,
        "frames": counts.frames and round(counts.frames),
    }
    unknown = None if counts.train and counts.frames else f"say it: --videos {name}=VIDEOSxFRAMES"
    return {**row, "from": counts.origin, "cure": unknown}


def check_device(gpu: str, gpus: int) -> None:
    """Refuse a device that nothing is known of.

    Raises:
        InputError: an unknown device, or no devices.
    """
    if gpu != "cpu" and gpu not in DEVICES:
        raise InputError(f"gpu = {gpu!r}, expected one of {', '.join([*DEVICES, 'cpu'])}. Cure: choose one of them.")
    if gpus < 1:
        raise InputError(f"gpus = {gpus}, expected at least 1. Cure: give the number of devices.")


def device_of(gpu: str, gpus: int) -> Device:
    """The device of a key of DEVICES, or this machine's CPU shared by `gpus` processes."""
    return _this_cpu(gpus) if gpu == "cpu" else DEVICES[gpu]


def _this_cpu(processes: int) -> Device:
    """One of several processes that share this machine, as a device of the table; its peaks are measured."""
    import psutil

    from pipeline.efficiency.meters import matmul_peak

    total = psutil.virtual_memory().total / GIB
    with _threads(processes):
        half, single = matmul_peak(precision="bf16"), matmul_peak()
    source = f"measured matrix products, the cores shared by {processes}"
    return Device(THIS_CPU, half, single, total / processes, 10e9, 2e9, source)


@contextlib.contextmanager
def _threads(processes: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stage_row(
    stage: str,
    benchmark: str | None,
    params: Params,
    counts: dict[str, Counts],
    device: Device,
    gpus: int,
    mfu: float | None,
    memory: bool,
    calibration: Path | None,
) -> dict[str, Any]:
    """One stage's prediction; arguments and result as in :func:`plan`, `benchmark` None for pre-training."""
    found: PretrainParams | FinetuneParams
    if benchmark is None:
        found = params.pretrain
        parts = [counts[name].pretraining() for name in params.pretrain.corpus]
        videos = None if None in parts else sum(part or 0 for part in parts)
        cost = pretrain_cost(params)
        passes = 3.0
    else:
        fine = found = params.finetune_of(benchmark)
        videos = counts[benchmark].labelled(fine.label_fraction)
        cost = finetune_cost(params, benchmark)
        passes = 1.0 if fine.frozen else 3.0
    if found.batch % gpus:
        raise InputError(
            f"{stage}: a global batch of {found.batch} does not divide among {gpus} devices. Cure: another --gpus."
        )
    clips, each = found.batch * found.repeated_augmentation, found.batch // gpus
    model = model_of(benchmark, params)
    on_gpu = device.name != THIS_CPU
    parameters, per_clip, fixed = memory_of(model, found.precision, params, gpus, on_gpu) if memory else (0, 0.0, 0.0)
    micro, accumulate = propose(each, found.repeated_augmentation, per_clip, fixed, device) if memory else (each, 1)
    origin = "given" if mfu else "assumed"
    if not on_gpu and mfu is None and micro > 0:
        tried = micro * found.repeated_augmentation
        mfu, origin = (
            _share_here(model, tried, found.precision, params, cost, passes, device, gpus),
            f"measured, a few steps of one process on {TRIED_CLIPS} made-up clips at most",
        )
    elif mfu is None and passes == 3.0 and found.precision != "fp32":
        share = measured_share(device, stage, params.pretrain.size, params.compute.compile, calibration)
        mfu, origin = (share.mfu, share.origin) if share else (None, origin)
    bounds = _bounds(cost.multiply_adds, clips, passes, parameters, params, found.precision, device, gpus, mfu)
    step = max(bounds.values())
    if videos is not None and videos < found.batch:
        raise InputError(
            f"{stage}: {videos} training videos are fewer than its batch of {found.batch}: an epoch has no step. "
            "Cure: a smaller batch."
        )
    steps = None if videos is None else found.epochs * (videos // found.batch)
    return {
        "stage": stage if benchmark is None else f"finetune {benchmark}",
        "gmacs_per_clip": round(cost.multiply_adds / 1e9, 3),
        "tokens_per_clip": cost.encoder_tokens,
        "parameters_m": round(parameters / 1e6, 2),
        "global_batch": found.batch,
        "batch_per_device": micro,
        "accumulate": accumulate,
        "memory_gib": round(_at(micro * found.repeated_augmentation, per_clip, fixed) / GIB, 2) if micro else None,
        "fits": micro > 0,
        "step_seconds": round(step, 4),
        "mfu": round(mfu or ASSUMED_MFU, 4),
        "mfu_from": origin,
        "bound_by": max(bounds, key=lambda name: bounds[name]),
        "seconds_per_1000_clips": round(1000 * step / clips, 3),
        "videos": videos,
        "steps": steps,
        "hours": None if steps is None else round(steps * step / 3600, 4),
        "clips_per_second_needed": round(clips / step, 1),
        "cure": None
        if micro
        else "one clip does not fit: set compute.activation_checkpointing, or data_parallel: fsdp",
    }


def model_of(benchmark: str | None, params: Params) -> tuple[str, dict[str, Any]]:
    """The timm name and arguments of a stage's model."""
    from models.registry import architecture

    name = architecture(params.pretrain.size, pretrain=benchmark is None)
    if benchmark is None:
        return name, autoencoder_arguments(params.pretrain, params.clip)
    classes = params.benchmark(benchmark).data.classes
    return name, classifier_arguments(params.finetune_of(benchmark), params.clip, classes)


def memory_of(
    model: tuple[str, dict[str, Any]], precision: str, params: Params, gpus: int, gpu: bool = True
) -> tuple[int, float, float]:
    """(parameters, bytes per clip, fixed bytes) of one device: replicated under DDP, shared out under FSDP."""
    from pipeline.planning.memory import footprint

    clip = (params.clip.frames, params.clip.resolution)
    found = footprint(*model, clip, precision, params.compute.activation_checkpointing, True, gpu)
    fixed = max(found.fixed, STATE_BYTES * found.parameters)
    return found.parameters, found.per_clip, fixed / gpus if params.compute.data_parallel == "fsdp" else fixed


def _share_here(
    model: tuple[str, dict[str, Any]], clips: int, precision: str, params: Params, cost: Cost, passes: float,
    device: Device, processes: int,
) -> float:  # fmt: skip
    """The share of this CPU's peak that a few real steps reach, with one process's share of the cores."""
    import torch

    from pipeline.planning.rate import clips_per_second

    clip = (params.clip.frames, params.clip.resolution)
    with _threads(processes):
        rate = clips_per_second(*model, clip, min(clips, TRIED_CLIPS), precision, torch.device("cpu"), TRIED_SECONDS)
    peak = device.single if precision == "fp32" else device.half
    return utilisation(cost.multiply_adds / 1e9, rate, peak, passes)


def _at(clips: int, per_clip: float, fixed: float) -> float:
    return fixed + clips * per_clip


def propose(each: int, repeated: int, per_clip: float, fixed: float, device: Device) -> tuple[int, int]:
    """(micro-batch, accumulation) with the largest micro-batch that fits; (0, 0) where none does.

    Their product is the device's share of the global batch, so that the learning rate's rule holds.
    """
    room = device.memory_gib * GIB * USABLE_MEMORY
    for accumulate in range(1, each + 1):
        if each % accumulate == 0 and _at(each // accumulate * repeated, per_clip, fixed) <= room:
            return each // accumulate, accumulate
    return 0, 0


def _bounds(
    multiply_adds: int, clips: int, passes: float, parameters: int, params: Params, precision: str,
    device: Device, gpus: int, mfu: float | None,
) -> dict[str, float]:  # fmt: skip
    """[s] that each part alone would take for one optimizer step; they overlap, so the largest counts."""
    peak = device.single if precision == "fp32" else device.half
    cores = CORES_PER_DEVICE * gpus if device.name != THIS_CPU else len(os.sched_getaffinity(0))
    exchange = 2 * (gpus - 1) / gpus * 4 * parameters / device.link
    return {
        "arithmetic": passes * 2 * multiply_adds * clips / (peak * (mfu or ASSUMED_MFU) * gpus),
        "decoding": clips * CLIP_SECONDS[params.preprocess.store] * params.clip.frames / 16 / cores,
        "exchange": exchange,
    }


def _disk(params: Params, rows: list[dict[str, Any]], counts: dict[str, Counts]) -> dict[str, float | None]:
    """[GiB] of the caches and of checkpoints at once; the caches' is None where a count is unknown."""
    frame = FRAME_BYTES[params.preprocess.store] * (params.preprocess.short_side / 256) ** 2
    kept = params.preprocess.keep_every if params.preprocess.frames == "every" else 1
    frames = [None if c.total is None or c.frames is None else c.total * c.frames for c in counts.values()]
    known = [number for number in frames if number is not None]
    cache = None if len(known) < len(frames) else round(sum(known) * frame / kept / GIB, 2)
    weights = max((row["parameters_m"] for row in rows), default=0.0) * 1e6
    return {
        "cache": cache,
        "cache_per_1000_frames": round(1000 * frame / kept / GIB, 4),
        "checkpoints": round(weights * 12 * CHECKPOINTS / GIB, 2),
    }


def _assumptions(device: Device, rows: list[dict[str, Any]]) -> list[str]:
    shares = "; ".join(f"{row['stage']} {row['mfu']:.2f}, {row['mfu_from']}" for row in rows)
    return [
        f"peak of {device.name}: {device.half / 1e12:.1f} TFLOP/s half, {device.single / 1e12:.1f} "
        f"single ({device.source})",
        f"share of the peak: {shares}; the published K400 epochs on 8 A6000 amount to about 0.04",
        f"{CORES_PER_DEVICE} cores for each device decode a clip in {CLIP_SECONDS['jpeg'] * 1e3:.1f} ms (cached JPEG)",
        f"{100 * USABLE_MEMORY:.0f} % of device memory is usable; AdamW in fp32; under FSDP its states shared evenly",
        "where a benchmark has neither a manifest nor files here, its videos are as published, else unknown; "
        "validation is not counted",
    ]
