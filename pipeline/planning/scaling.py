"""`everest scaling`: the step time of pre-training on 8 to 128 GPUs, and the published K400 epochs by the same model.

The model is `pipeline/planning/step_time.py`. Arithmetic, memory and links of a GPU are its maker's figures times an
assumed share; no GPU has been measured. docs/scaling.md discusses each assumption.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pipeline.efficiency.clip_cost import pretrain_cost
from pipeline.efficiency.meters import DEVICES
from pipeline.errors import InputError
from pipeline.params import Params, load_params
from pipeline.planning.counts import PUBLISHED, Counts, counts_of, given
from pipeline.planning.measured import CLIP_SECONDS
from pipeline.planning.plan import ASSUMED_MFU, CORES_PER_DEVICE, memory_of, model_of, propose
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


def gpus_of(text: str) -> tuple[int, ...]:
    """Numbers of GPUs from `8,16`.

    Raises:
        InputError: anything but whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"gpus = {text!r}, expected whole numbers with commas. Cure: --gpus 8,16,32.") from None


def scaling(
    recipe: str | None = None,
    gpu: str = "h100",
    counts: tuple[int, ...] = COUNTS,
    mfu: float | None = None,
    store: str | None = None,
    videos: list[str] | None = None,
) -> dict[str, Any]:
    """Predict pre-training of a recipe, at its global batch, on several numbers of GPUs.

    Args:
        recipe: a recipe's name; None for params.yaml.
        gpu: a key of `pipeline.efficiency.meters.DEVICES`.
        mfu: share of the peak, the same at every batch; None for ASSUMED_MFU.
        store: `jpeg` or `raw` in place of the recipe's cache.
        videos: `NAME=VIDEOS` of benchmarks whose counts nothing here tells; without, their epoch's time is None.

    Returns:
        `rows`, one for each number, and `assumptions`. `efficiency` is the time of one GPU over `gpus` times the step.

    Raises:
        InputError: an unknown GPU or store, a share outside (0, 1], counts that do not divide the batch.
    """
    if gpu not in NETWORK:
        raise InputError(f"gpu = {gpu!r}, expected one of {', '.join(NETWORK)}. Cure: choose one of them.")
    mfu = ASSUMED_MFU if mfu is None else mfu
    if not 0 < mfu <= 1:
        raise InputError(f"mfu = {mfu:g}, expected above 0 and at most 1. Cure: --mfu 0.3, or leave it out.")
    params = _params(recipe)
    store = store or params.preprocess.store
    if store not in CLIP_SECONDS:
        raise InputError(f"store = {store!r}, expected one of {', '.join(CLIP_SECONDS)}. Cure: choose one of them.")
    batch = params.pretrain.batch
    wrong = [n for n in counts if n < 1 or batch % n]
    if wrong or not counts:
        raise InputError(
            f"gpus = {', '.join(map(str, wrong)) or 'none'}: the global batch of {batch} must divide among them. "
            f"Cure: --gpus with divisors of {batch}."
        )
    pieces = _Pieces(params, gpu, store, given(videos or [], params))
    alone = pieces.step(1, mfu).whole
    return {
        "recipe": params.recipe,
        "device": DEVICES[gpu].name,
        "global_batch": batch,
        "gmacs_per_clip": round(pieces.multiply_adds / 1e9, 3),
        "parameters_m": round(pieces.parameters / 1e6, 2),
        "rows": [_row(pieces, n, mfu, alone) for n in counts],
        "assumptions": _assumptions(gpu, mfu, store),
    }


def _params(recipe: str | None) -> Params:
    from pipeline.recipes import recipe_path

    return load_params(recipe_path(recipe) if recipe else Path("params.yaml"))


class _Pieces:
    """What a recipe's pre-training step consists of on one kind of GPU."""

    def __init__(self, params: Params, gpu: str, store: str, known: dict[str, Counts] | None = None) -> None:
        self.params, self.store = params, store
        self.device, self.fabric = DEVICES[gpu], fabric_of(gpu)
        stage = params.pretrain
        self.clips = stage.batch * stage.repeated_augmentation
        self.multiply_adds = pretrain_cost(params).multiply_adds
        self._peak = self.device.single if stage.precision == "fp32" else self.device.half
        self.parameters, self._per_clip, self._fixed = memory_of(model_of(None, params), stage.precision, params, 1)
        parts = [counts_of(params, name, known).pretraining() for name in stage.corpus]
        self.steps_per_epoch = None if None in parts else max(1, sum(part or 0 for part in parts) // stage.batch)

    def step(self, gpus: int, mfu: float) -> StepTime:
        return step_time(self.work(gpus, mfu), self.fabric, gpus)

    def work(self, gpus: int, mfu: float) -> Work:
        clips = self.clips / gpus
        frames = self.params.clip.frames / 16
        return Work(
            arithmetic=3 * 2 * self.multiply_adds * clips / (self._peak * mfu),
            update=UPDATE_BYTES * self.parameters / self.device.bandwidth,
            loader=clips * CLIP_SECONDS[self.store] * frames / CORES_PER_DEVICE,
            gradients=GRADIENT_BYTES * self.parameters,
            accumulate=self.micro(gpus)[1],
        )

    def micro(self, gpus: int) -> tuple[int, int]:
        """(micro-batch, accumulation) that fit, the recipe's share undivided where none does."""
        stage = self.params.pretrain
        each = stage.batch // gpus
        found = propose(each, stage.repeated_augmentation, self._per_clip, self._fixed, self.device)
        return found if found[0] else (1, each)


def _row(pieces: _Pieces, gpus: int, mfu: float, alone: float) -> dict[str, Any]:
    found = pieces.step(gpus, mfu)
    micro, accumulate = pieces.micro(gpus)
    milliseconds = {
        "compute": found.compute, "loader": found.loader, "all_reduce": found.exchange, "exposed": found.exposed,
        "step": found.whole,
    }  # fmt: skip
    return {
        "gpus": gpus,
        "batch_each": f"{micro} x {accumulate}" if accumulate > 1 else str(micro),
        **{f"{name}_ms": round(1e3 * value, 2) for name, value in milliseconds.items()},
        "clips_per_second": round(pieces.clips / found.whole),
        "efficiency": round(alone / (gpus * found.whole), 3),
        "limit": found.limit,
        "epoch_minutes": pieces.steps_per_epoch and round(pieces.steps_per_epoch * found.whole / 60, 5),
    }


def published() -> list[dict[str, Any]]:
    """The published K400 epochs by this model.

    Returns:
        For each the share of the peak that it implies, and what the other one's share predicts for it.
    """
    gpu, gpus = PUBLISHED_ON
    implied = {name: _implied_share(_pieces_published(name), seconds) for name, seconds in PUBLISHED_EPOCHS.items()}
    rows = []
    for name, seconds in PUBLISHED_EPOCHS.items():
        (other,) = PUBLISHED_EPOCHS.keys() - {name}
        predicted = _epoch_seconds(_pieces_published(name), implied[other])
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
def _pieces_published(recipe: str) -> _Pieces:
    params = _params(recipe)
    return _Pieces(params, PUBLISHED_ON[0], params.preprocess.store)


def _epoch_seconds(pieces: _Pieces, mfu: float) -> float:
    """[s] of one epoch over all of K400's training videos on the published machine."""
    return pieces.step(PUBLISHED_ON[1], mfu).whole * PUBLISHED["k400"][0] / pieces.params.pretrain.batch


def _implied_share(pieces: _Pieces, seconds: float) -> float:
    """The share of the peak at which an epoch takes `seconds`, by bisection: time falls as the share grows."""
    low, high = 1e-4, 1.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _epoch_seconds(pieces, middle) > seconds else (low, middle)
    return high


def _assumptions(gpu: str, mfu: float, store: str) -> list[str]:
    device, fabric = DEVICES[gpu], fabric_of(gpu)
    return [
        f"{mfu:.3f} of {device.half / 1e12:.0f} TFLOP/s, whatever the batch of a GPU; not measured on one",
        f"AdamW moves {UPDATE_BYTES} bytes a parameter at {device.bandwidth / 1e12:.2f} TB/s",
        f"a clip takes {1e3 * CLIP_SECONDS[store]:.2f} ms of one of {CORES_PER_DEVICE} cores for each GPU ({store})",
        f"all-reduce in fp32 under DDP, {fabric.link / 1e9:.0f} GB/s inside a machine of 8, "
        f"{fabric.network / 1e9:.0f} GB/s between machines; a hop takes {1e6 * LINK_LATENCY:.0f} us and "
        f"{1e6 * NETWORK_LATENCY:.0f} us",
        "gradients fill DDP's buckets evenly over backward; no rank is slower than another",
    ]
