"""`everest scaling`: the step time of pre-training on 8 to 128 GPUs, and the published K400 epochs by the same model.

The model is `pipeline/planning/step_time.py`. Arithmetic, memory and links of a GPU are its maker's figures times an
share, measured where `everest bench gpu` ran on such a GPU, else assumed. docs/scaling.md discusses each assumption.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.efficiency.meters import DEVICES
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.benchmarks import PUBLISHED
from pipeline.planning.calibration import Share
from pipeline.planning.counts import counts_of, given
from pipeline.planning.stage_cost import (
    CORES_PER_DEVICE,
    StageCost,
    check_share,
    check_store,
    launch_words,
    loading_seconds,
    loading_words,
    planned_params,
)
from pipeline.planning.step_time import GRADIENT_BYTES, UPDATE_BYTES, Fabric, StepTime, Work, step_time

COUNTS = (8, 16, 32, 64, 128)
#: Share of a data sheet's rate that an all-reduce reaches: 8 A100 over NVSwitch show about 200 of 300 GB/s
#: (NVIDIA/nccl-tests#149), a 400 Gb/s adapter 46 to 48 of 50 GB/s (NVIDIA/nccl-tests#290).
LINK_SHARE, NETWORK_SHARE = 0.67, 0.94
#: [s] of a hop: 8 bytes among 8 RTX 4090 take 42 us, 14 hops (NVIDIA/nccl#1530); between 2 machines 19 us, 2 hops
#: (NVIDIA/nccl-tests#150).
LINK_LATENCY, NETWORK_LATENCY = 3e-6, 10e-6
#: [byte/s] per machine of 8 and direction: 8 adapters of 400 Gb/s (DGX H100 and H200), of 200 Gb/s (DGX A100); one
#: of 100 Gb/s for cards of workstations, which is ours.
NETWORK = {"h100": 400e9, "h200": 400e9, "a100-80": 200e9, "a100-40": 200e9, "a6000": 12.5e9, "4090": 12.5e9}
#: [s] of one K400 epoch of ViT-B on 8 A6000, as published (EVEREST), and the recipe it belongs to.
PUBLISHED_EPOCHS = {"k400": 8 * 60 + 18, "videomae_k400": 18 * 60 + 42}
PUBLISHED_ON = ("a6000", 8)


def fabric_of(gpu: str) -> Fabric:
    """What GPUs of the table exchange gradients over."""
    return Fabric(
        LINK_SHARE * DEVICES[gpu].link, LINK_LATENCY, NETWORK_SHARE * NETWORK[gpu], NETWORK_LATENCY, per_machine=8
    )


class ScalingRow(TypedDict):
    """A number of GPUs: the step and its parts [ms]; `efficiency` is the time of one GPU over `gpus` times the step."""

    gpus: int
    batch_each: str
    compute_ms: float
    loader_ms: float
    all_reduce_ms: float
    exposed_ms: float
    step_ms: float
    clips_per_second: int
    efficiency: float
    limit: str
    epoch_minutes: float | None


class Scaling(TypedDict):
    recipe: str
    device: str
    global_batch: int
    gmacs_per_clip: float
    parameters_m: float
    rows: list[ScalingRow]
    assumptions: list[str]


class PublishedRow(TypedDict):
    """A published epoch: the share of the peak that it implies, and what the other one's share predicts for it."""

    recipe: str
    gpus: str
    published_seconds: int
    implied_mfu: float
    predicted_seconds: int
    with_the_share_of: str
    error_percent: float


def scaling(
    recipe: str | None = None,
    gpu: str = "h100",
    counts: Sequence[int] = COUNTS,
    mfu: float | None = None,
    store: str | None = None,
    videos: Sequence[str] = (),
    calibration: Path | None = None,
) -> Scaling:
    """Predict pre-training of a recipe, at its global batch, on several numbers of GPUs.

    Args:
        recipe: a recipe's name; None for params.yaml.
        gpu: a key of `pipeline.efficiency.meters.DEVICES`.
        mfu: share of the peak, the same at every batch; None for the one measured on such a GPU, else ASSUMED_MFU.
        store: `jpeg` or `raw` in place of the recipe's cache.
        videos: `NAME=VIDEOS` of benchmarks whose counts nothing here tells; without, their epoch's time is None.
        calibration: shares that `everest bench gpu` measured; None for those that came with this version.

    Raises:
        InputError: an unknown GPU or store, a share outside (0, 1], counts that do not divide the batch.
    """
    if gpu not in NETWORK:
        raise InputError(f"gpu = {gpu!r}, expected one of {', '.join(NETWORK)}. Cure: choose one of them.")
    check_share(mfu)
    params = planned_params(recipe)
    store = store or params.preprocess.store
    check_store(store)
    batch = params.pretrain.batch
    wrong = [n for n in counts if n < 1 or batch % n]
    if wrong or not counts:
        raise InputError(
            f"gpus = {', '.join(map(str, wrong)) or 'none'}: the global batch of {batch} must divide among them. "
            f"Cure: --gpus with divisors of {batch}."
        )
    step = _Step(params, gpu, store)
    share = step.cost.share(step.device, mfu, calibration)
    known = given(videos, params)
    total = step.cost.videos({name: counts_of(params, name, known) for name in params.pretrain.corpus})
    steps = None if total is None else max(1, total // batch)
    return {
        "recipe": params.recipe,
        "device": step.device.name,
        "global_batch": batch,
        "gmacs_per_clip": round(step.cost.cost.multiply_adds / 1e9, 3),
        "parameters_m": round(step.memory.parameters / 1e6, 2),
        "rows": [_row(step, n, share.mfu, steps) for n in counts],
        "assumptions": _assumptions(gpu, share, store),
    }


class _Step:
    """A recipe's pre-training step on one kind of GPU."""

    def __init__(self, params: Params, gpu: str, store: str) -> None:
        self.cost, self.store = StageCost(params), store
        self.device, self.fabric = DEVICES[gpu], fabric_of(gpu)
        self.memory = self.cost.memory(1)

    def time(self, gpus: int, mfu: float) -> StepTime:
        loading = loading_seconds(self.store, self.cost.params.clip.frames)
        _, accumulate = self.micro(gpus)
        work = Work(
            arithmetic=self.cost.arithmetic_seconds(self.device, mfu, gpus),
            update=UPDATE_BYTES * self.memory.parameters / self.device.bandwidth,
            loader=self.cost.clips / gpus * loading / CORES_PER_DEVICE,
            gradients=GRADIENT_BYTES * self.memory.parameters,
            accumulate=accumulate,
            launches=self.cost.launch_seconds(accumulate),
        )
        return step_time(work, self.fabric, gpus)

    def micro(self, gpus: int) -> tuple[int, int]:
        """(micro-batch, accumulation) that fit, the recipe's share undivided where none does."""
        micro, accumulate = self.cost.micro_batch(gpus, self.memory, self.device)
        return (micro, accumulate) if micro else (1, self.cost.stage.batch // gpus)


def _row(step: _Step, gpus: int, mfu: float, steps: int | None) -> ScalingRow:
    time, alone = step.time(gpus, mfu), step.time(1, mfu)
    micro, accumulate = step.micro(gpus)
    return {
        "gpus": gpus,
        "batch_each": f"{micro} x {accumulate}" if accumulate > 1 else str(micro),
        "compute_ms": round(1e3 * time.compute, 2),
        "loader_ms": round(1e3 * time.loader, 2),
        "all_reduce_ms": round(1e3 * time.exchange, 2),
        "exposed_ms": round(1e3 * time.exposed, 2),
        "step_ms": round(1e3 * time.total, 2),
        "clips_per_second": round(step.cost.clips / time.total),
        "efficiency": round(alone.total / (gpus * time.total), 3),
        "limit": time.limit,
        "epoch_minutes": steps and round(steps * time.total / 60, 5),
    }


def published() -> list[PublishedRow]:
    """The published K400 epochs by this model."""
    gpu, gpus = PUBLISHED_ON
    implied = {name: _implied_share(_published_step(name), seconds) for name, seconds in PUBLISHED_EPOCHS.items()}
    rows: list[PublishedRow] = []
    for name, seconds in PUBLISHED_EPOCHS.items():
        (other,) = PUBLISHED_EPOCHS.keys() - {name}
        predicted = _epoch_seconds(_published_step(name), implied[other])
        rows.append(
            {
                "recipe": name,
                "gpus": f"{gpus} x {DEVICES[gpu].name}",
                "published_seconds": seconds,
                "implied_mfu": round(implied[name], 4),
                "predicted_seconds": round(predicted),
                "with_the_share_of": other,
                "error_percent": round(100 * (predicted / seconds - 1), 1),
            }
        )
    return rows


@functools.cache
def _published_step(recipe: str) -> _Step:
    params = planned_params(recipe)
    return _Step(params, PUBLISHED_ON[0], params.preprocess.store)


def _epoch_seconds(step: _Step, mfu: float) -> float:
    """[s] of one epoch over all of K400's training videos on the published machine."""
    return step.time(PUBLISHED_ON[1], mfu).total * PUBLISHED["k400"].train[1] / step.cost.stage.batch


def _implied_share(step: _Step, seconds: float) -> float:
    """The share of the peak at which an epoch takes `seconds`, by bisection: time falls as the share grows."""
    low, high = 1e-4, 1.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _epoch_seconds(step, middle) > seconds else (low, middle)
    return high


def _assumptions(gpu: str, share: Share, store: str) -> list[str]:
    device, fabric = DEVICES[gpu], fabric_of(gpu)
    origin = share.origin if share.origin.startswith("measured") else "not measured on one"
    return [
        f"{share.mfu:.3f} of {device.half / 1e12:.0f} TFLOP/s, whatever the batch of a GPU; {origin}",
        f"AdamW moves {UPDATE_BYTES} bytes a parameter at {device.bandwidth / 1e12:.2f} TB/s",
        f"{CORES_PER_DEVICE} cores for each GPU; {loading_words(store, 16)}",
        launch_words(),
        f"all-reduce in fp32 under DDP, {fabric.link / 1e9:.0f} GB/s inside a machine of 8, "
        f"{fabric.network / 1e9:.0f} GB/s between machines; a hop takes {1e6 * LINK_LATENCY:.0f} us and "
        f"{1e6 * NETWORK_LATENCY:.0f} us",
        "gradients fill DDP's buckets evenly over backward; no rank is slower than another",
    ]
