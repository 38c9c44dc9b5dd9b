"""Fast: steps of all sizes as the engine runs them, beside other implementations, and what bounds them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from models.classifier import EverestClassifier
from models.cost import multiply_adds
from models.registry import SIZES
from pipeline.bench import contestants, unequal
from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.setting import Setting, params_of, resident
from pipeline.bench.gpu.timing import (
    GIB,
    copy_bytes,
    largest_batch,
    matmul_flops,
    median_seconds,
    peak_gib,
    reserved_gib,
    reset_peak,
    upload_bytes,
)
from pipeline.bench.harness import Figures, classifier
from pipeline.efficiency.meters import mfu
from pipeline.training.tasks import REPLAYED

#: Goals on an H100: share of the data sheet's peak by size, and clips a second over Hugging Face's at equal batch.
MFU_GOALS = {"base": 0.45, "large": 0.55}
TIMES_HUGGINGFACE = 2.0
#: Clips at which the search for the largest batch begins on a device of 80 GB; twice as many on one of 140.
START = {
    ("pretrain", "small"): 1024, ("pretrain", "base"): 512, ("pretrain", "large"): 256, ("pretrain", "huge"): 128,
    ("finetune", "small"): 256, ("finetune", "base"): 128, ("finetune", "large"): 64, ("finetune", "huge"): 32,
}  # fmt: skip


def checks(setting: Setting) -> Iterator[Check]:
    """The rows, those that others are read against first."""
    first, *others = setting.sizes
    yield Check("ceilings", 2, ceilings)
    yield Check(f"equal batch: {first}", 25, partial(equal_batch, size=first))
    for size in setting.sizes[:2]:
        yield _step("pretrain", size, compiled=True)
    yield _few_clips(first, 2)
    yield _step("pretrain", first, compiled=False)
    yield _step("finetune", first, compiled=True)
    yield _step("finetune", first, compiled=False)
    yield _step("finetune", first, compiled=True, all_tokens=True)
    yield Check("evaluation views", 5, partial(views, size=first))
    yield Check("budgets of their own: packed against padded", 8, partial(unequal.fast, size=first))
    if setting.cuda:
        yield _few_clips(first, 24)
    for size in others[1:]:
        yield _step("pretrain", size, compiled=True)
    for size in others:
        yield _step("finetune", size, compiled=True)
    for size in others:
        yield _step("pretrain", size, compiled=False)
    for size in others[:1]:
        yield _step("finetune", size, compiled=True, all_tokens=True)


def _few_clips(size: str, clips: int) -> Check:
    return Check(f"few clips: {clips}", 50, partial(few_clips, size=size, clips=clips))


def _step(stage: str, size: str, compiled: bool, all_tokens: bool = False) -> Check:
    name = f"{stage} {size}{', all tokens' if all_tokens else ''}, {'compiled' if compiled else 'eager'}"
    run = partial(step, stage=stage, size=size, compiled=compiled, all_tokens=all_tokens)
    return Check(name, 16 if compiled else 7, run)


def milliseconds(run: Callable[[], object], setting: Setting) -> float:
    """[ms] of a call, the median of the setting's count."""
    return round(1e3 * median_seconds(run, setting.device, setting.count), 2)


@cache
def product_peak(device: torch.device) -> float:
    """[FLOP/s] of bf16 products here, measured once."""
    return matmul_flops(device)


def ceilings(setting: Setting) -> Figures:
    """What products and copies reach here, on random data."""
    device, known = setting.device, setting.known
    return {
        "matmul_bf16_tflops": round(product_peak(device) / 1e12, 1),
        "matmul_tf32_tflops": round(matmul_flops(device, torch.float32) / 1e12, 1),
        "data_sheet_bf16_tflops": round(known.half / 1e12, 1) if known else None,
        "device_copy_gb_per_s": round(copy_bytes(device) / 1e9, 1),
        "upload_pinned_gb_per_s": round(upload_bytes(device, True) / 1e9, 2),
        "upload_pageable_gb_per_s": round(upload_bytes(device, False) / 1e9, 2),
    }


def step(setting: Setting, stage: str, size: str, compiled: bool, all_tokens: bool) -> Figures:
    """The engine's step (crops, forward, backward, norm, AdamW) on resident clips, at the largest batch that fits."""
    started = time.monotonic()
    device, known = setting.device, setting.known
    changes = {"finetune__strategy": "none"} if all_tokens else {}

    def measured(batch: int) -> Figures:
        params = params_of(setting, size, batch, **changes)
        strategy = params.pretrain.strategy if stage == "pretrain" else params.finetune.strategy
        training = resident(setting, stage, params, compiled)
        reset_peak(device)
        began = time.monotonic()
        training.losses(1)
        first = time.monotonic() - began
        seconds = median_seconds(training.step, device, setting.count)
        cost, rate = training.task.cost, batch / seconds
        gmacs = cost.multiply_adds / 1e9
        share = mfu(gmacs, rate, known.half) if known else None
        figures: Figures = {
            "stage": stage, "size": size, "strategy": strategy,
            "compiled": compiled, "clips": batch, "tokens": cost.encoder_tokens,
            "step_ms": round(1e3 * seconds, 2), "clips_per_second": round(rate, 1), "peak_gib": peak_gib(device),
            "first_step_seconds": round(first, 1), "gmacs_per_clip": round(gmacs, 2),
            "tflops": round(6e-3 * gmacs * rate, 2), "mfu": None if share is None else round(share, 4),
            "share_of_measured_peak": round(mfu(gmacs, rate, product_peak(device)), 4),
            "search_seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        goal = MFU_GOALS.get(size) if stage == "pretrain" else None
        if goal and share is not None:
            figures["goal"] = f"MFU >= {goal:.2f}: {'met' if share >= goal else 'missed'}"
        return figures

    if not setting.cuda:
        return largest_batch(measured, 4)
    roomy = torch.cuda.get_device_properties(device).total_memory > 120 * GIB
    return largest_batch(measured, START[stage, size] * (2 if roomy else 1))


def equal_batch(setting: Setting, size: str) -> Figures:
    """Model, backward and AdamW at one batch: ours eager and compiled, Hugging Face's VideoMAE, plain EVEREST; bf16."""
    figures: Figures = {"size": size, "clips": setting.equal}
    times: dict[str, float] = {}
    for name in ("ours", "ours_compiled", "huggingface", "plain"):
        compiled = name == "ours_compiled"
        if compiled and not setting.cuda:
            continue  # minutes of a C++ compiler for a model that no GPU sees
        kind = "ours" if compiled else name
        contest = contestants.Contest(size, setting.equal, setting.device.type, None, compiled, False)
        reset_peak(setting.device)
        try:
            run = contestants.contestant(kind, contest)
        except ImportError as error:
            figures[f"{name}_error"] = str(error)
            continue
        times[name] = seconds = median_seconds(partial(run, "bf16"), setting.device, setting.count)
        flops = 2 * contestants.step_multiply_adds(kind, size, setting.equal)
        figures |= {
            f"{name}_ms": round(1e3 * seconds, 2),
            f"{name}_clips_per_second": round(setting.equal / seconds, 1),
            f"{name}_tflops": round(flops / seconds / 1e12, 2),
            f"{name}_peak_gib": peak_gib(setting.device),
        }
    ours = times.get("ours_compiled", times["ours"])
    figures |= {f"times_{other}": round(times[other] / ours, 2) for other in ("huggingface", "plain") if other in times}
    if setting.cuda and "huggingface" in times:
        met = times["huggingface"] / ours >= TIMES_HUGGINGFACE
        figures["goal"] = f">= {TIMES_HUGGINGFACE:g} times Hugging Face's clips/s: {'met' if met else 'missed'}"
    return figures


def _classifier(setting: Setting, size: str) -> EverestClassifier:
    shape = {"img_size": setting.resolution, "num_frames": setting.frames, "num_classes": 400}
    return classifier(size, **shape, keep_ratio=0.6).to(setting.device)


def _clips(setting: Setting, count: int) -> Tensor:
    shape = (count, 3, setting.frames, setting.resolution, setting.resolution)
    return torch.randn(shape, device=setting.device)


def views(setting: Setting, size: str) -> Figures:
    """Test views a second, forward only, bf16."""
    model, count = _classifier(setting, size).eval(), 64 if setting.cuda else 4
    clips = _clips(setting, count)

    def run() -> None:
        with torch.inference_mode(), torch.autocast(setting.device.type, torch.bfloat16):
            model(clips)

    seconds = median_seconds(run, setting.device, setting.count)
    cost = multiply_adds(size, "finetune", keep_ratio=0.6, frames=setting.frames, resolution=setting.resolution)
    tflops = 2 * cost.multiply_adds * count / seconds / 1e12
    return {"size": size, "views": count, "views_per_second": round(count / seconds, 1), "tflops": round(tflops, 2)}


def few_clips(setting: Setting, size: str, clips: int) -> Figures:
    """The engine's step of few clips, which launches bound: eager, compiled, and with rows of blocks replayed.

    The losses are of the fourth step; what torch would not record as a CUDA graph is counted as skipped.
    """
    from torch._dynamo.utils import counters

    counters.clear()
    figures: Figures = {"size": size, "clips": clips, "blocks": SIZES[size].depth}
    params = params_of(setting, size, clips)
    for name, compiled, row_mode in (("eager", False, None), ("compiled", True, None), ("graphs", True, REPLAYED)):
        reset_peak(setting.device)
        training = resident(setting, "pretrain", params, compiled, row_mode)
        began = time.monotonic()
        training.losses(1)
        first = time.monotonic() - began
        figures |= {
            f"{name}_loss": training.losses(3)[-1],  # the first of them records
            f"{name}_ms": milliseconds(training.step, setting),
            f"{name}_peak_gib": peak_gib(setting.device),
            f"{name}_reserved_gib": reserved_gib(setting.device),
            f"{name}_first_step_seconds": round(first, 1),
        }
        del training
        gc.collect()
    return figures | {"graphs_skipped": counters["inductor"]["cudagraph_skips"]}
