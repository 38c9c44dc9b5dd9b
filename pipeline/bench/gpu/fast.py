"""Fast: steps of all sizes as the engine runs them, beside other implementations, and what bounds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from models.cost import multiply_adds
from models.registry import SIZES, architecture
from pipeline.bench import contestants
from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.setting import Setting, params_of, resident_engine
from pipeline.bench.gpu.timing import (
    copy_bytes,
    largest_batch,
    matmul_flops,
    median_seconds,
    peak_gib,
    reset_peak,
    upload_bytes,
)
from pipeline.bench.step import step_multiply_adds
from pipeline.efficiency.meters import known_device, mfu

#: Goals on an H100: share of the data sheet's peak by size, and clips a second over Hugging Face's at equal batch.
MFU_GOALS = {"base": 0.45, "large": 0.55}
TIMES_HUGGINGFACE = 2.0
#: Clips at which the search for the largest batch begins.
START = {
    ("pretrain", "small"): 1024, ("pretrain", "base"): 512, ("pretrain", "large"): 256, ("pretrain", "huge"): 128,
    ("finetune", "small"): 256, ("finetune", "base"): 128, ("finetune", "large"): 64, ("finetune", "huge"): 32,
}  # fmt: skip
#: What the measured peak of products is kept as, for the rows after it.
CEILINGS: dict[str, float] = {}


def checks(setting: Setting) -> Iterator[Check]:
    """The rows, those that others are read against first."""
    first, *others = setting.sizes
    slow = setting.needs(25)
    yield Check("ceilings", lambda: ceilings(setting), setting.needs(2))
    yield Check(f"equal batch: {first}", lambda: equal_batch(setting, first), slow)
    for size in setting.sizes[:2]:
        yield _step(setting, "pretrain", size, compiled=True)
    yield _step(setting, "pretrain", first, compiled=False)
    yield _step(setting, "finetune", first, compiled=True)
    yield _step(setting, "finetune", first, compiled=False)
    yield _step(setting, "finetune", first, compiled=True, tokens="all", finetune__strategy="none")
    yield Check("evaluation views", lambda: views(setting, first), setting.needs(5))
    yield Check("budgets of their own, padded", lambda: budgets(setting, first), setting.needs(5))
    yield Check("one small batch: launches", lambda: small_batch(setting, first), setting.needs(5))
    for size in others[1:]:
        yield _step(setting, "pretrain", size, compiled=True)
    for size in others:
        yield _step(setting, "finetune", size, compiled=True)
    for size in others:
        yield _step(setting, "pretrain", size, compiled=False)
    for size in others[:1]:
        yield _step(setting, "finetune", size, compiled=True, tokens="all", finetune__strategy="none")
    # Last: a capture that fails may take the device along.
    yield Check("one small batch: CUDA graph", lambda: graph(setting, first), setting.needs(8))


def _step(setting: Setting, stage: str, size: str, compiled: bool, tokens: str = "", **changes: Any) -> Check:
    name = f"{stage} {size}{', all tokens' if tokens else ''}, {'compiled' if compiled else 'eager'}"
    needs = setting.needs(30 if compiled else 10)
    return Check(name, lambda: step(setting, stage, size, compiled, **changes), needs)


def ceilings(setting: Setting) -> dict[str, Any]:
    """What products and copies reach here, on random data."""
    CEILINGS["bf16"] = matmul_flops(setting.device)
    single = matmul_flops(setting.device, kind=torch.float32)
    known = known_device(torch.cuda.get_device_name(setting.device)) if setting.cuda else None
    return {
        "matmul_bf16_tflops": round(CEILINGS["bf16"] / 1e12, 1),
        "matmul_tf32_tflops": round(single / 1e12, 1),
        "data_sheet_bf16_tflops": round(known.half / 1e12, 1) if known else None,
        "device_copy_gb_per_s": round(copy_bytes(setting.device) / 1e9, 1),
        "upload_pinned_gb_per_s": round(upload_bytes(setting.device, True) / 1e9, 2),
        "upload_pageable_gb_per_s": round(upload_bytes(setting.device, False) / 1e9, 2),
    }


def _shares(setting: Setting, gmacs: float, rate: float) -> dict[str, Any]:
    """Useful FLOP/s (three forwards a step) over the data sheet's peak and over the measured one."""
    known = known_device(torch.cuda.get_device_name(setting.device)) if setting.cuda else None
    peak = CEILINGS.setdefault("bf16", matmul_flops(setting.device))
    return {
        "tflops": round(6e-3 * gmacs * rate, 2),
        "mfu": round(mfu(gmacs, rate, known.half), 4) if known else None,
        "share_of_measured_peak": round(mfu(gmacs, rate, peak), 4),
    }


def step(setting: Setting, stage: str, size: str, compiled: bool, **changes: Any) -> dict[str, Any]:
    """The engine's step (crops, forward, backward, norm, AdamW) on resident clips, at the largest batch that fits."""
    started = time.monotonic()

    def measured(batch: int) -> dict[str, Any]:
        params = params_of(setting, size, batch, **changes)
        engine, batches = resident_engine(setting, stage, params, compiled)
        reset_peak(setting.device)
        began = time.monotonic()
        engine.advance(batches, 0, at_once=True)
        first = time.monotonic() - began

        def once() -> None:
            engine._train_step(batches, 0)
            engine.step += 1
            engine._unread.clear()

        seconds = median_seconds(once, setting.device, setting.count)
        peak = peak_gib(setting.device)
        cost = engine.task.cost  # type: ignore[attr-defined]
        gmacs = cost.multiply_adds / 1e9
        return {
            "stage": stage, "size": size, "compiled": compiled, "clips": batch, "tokens": cost.encoder_tokens,
            "step_ms": round(1e3 * seconds, 2), "clips_per_second": round(batch / seconds, 1),
            "peak_gib": None if peak is None else round(peak, 2), "first_step_seconds": round(first, 1),
            "gmacs_per_clip": round(gmacs, 2), **_shares(setting, gmacs, batch / seconds),
        }  # fmt: skip

    start = START[stage, size] if setting.cuda else 4
    values = largest_batch(measured, start)[1] | {"search_seconds": round(time.monotonic() - started, 1)}
    goal = MFU_GOALS.get(size) if stage == "pretrain" else None
    if goal and values["mfu"] is not None:
        values["goal"] = f"MFU >= {goal:.2f}: {'met' if values['mfu'] >= goal else 'missed'}"
    return values


def equal_batch(setting: Setting, size: str) -> dict[str, Any]:
    """Model, backward and AdamW at one batch: ours eager and compiled, Hugging Face's VideoMAE, plain EVEREST; bf16."""
    found: dict[str, Any] = {"size": size, "clips": setting.equal}
    for name, kind, compiled in (
        ("ours", "ours", False), ("ours_compiled", "ours", True), ("huggingface", "huggingface", False),
        ("plain", "plain", False),
    ):  # fmt: skip
        if compiled and not setting.cuda:
            continue  # minutes of a C++ compiler for a model that no GPU sees
        try:
            found |= _contestant(setting, name, kind, size, compiled)
        except ImportError as error:
            found[f"{name}_error"] = str(error)
    ours = found.get("ours_compiled_ms") or found["ours_ms"]
    for other in ("huggingface", "plain"):
        if f"{other}_ms" in found:
            found[f"times_{other}"] = round(found[f"{other}_ms"] / ours, 2)
    if setting.cuda and "times_huggingface" in found:
        met = found["times_huggingface"] >= TIMES_HUGGINGFACE
        found["goal"] = f">= {TIMES_HUGGINGFACE:g} times Hugging Face's clips/s: {'met' if met else 'missed'}"
    return found


def _contestant(setting: Setting, name: str, kind: str, size: str, compiled: bool) -> dict[str, Any]:
    wish = contestants.Setting(size, setting.equal, setting.device.type, None, compiled, False)
    reset_peak(setting.device)
    run = contestants.contestant(kind, wish)
    seconds = median_seconds(lambda: run("bf16"), setting.device, setting.count)
    peak = peak_gib(setting.device)
    flops = 2 * step_multiply_adds(kind, size, setting.equal)
    return {
        f"{name}_ms": round(1e3 * seconds, 2),
        f"{name}_clips_per_second": round(setting.equal / seconds, 1),
        f"{name}_tflops": round(flops / seconds / 1e12, 2),
        f"{name}_peak_gib": None if peak is None else round(peak, 2),
    }


def _classifier(setting: Setting, size: str, **more: Any) -> Any:
    import timm

    shape: dict[str, Any] = {"img_size": setting.resolution, "num_frames": setting.frames, "num_classes": 400}
    shape |= {"keep_ratio": 0.6}
    return timm.create_model(architecture(size, pretrain=False), **shape | more).to(setting.device)


def _clips(setting: Setting, count: int) -> torch.Tensor:
    shape = (count, 3, setting.frames, setting.resolution, setting.resolution)
    return torch.randn(shape, device=setting.device)


def views(setting: Setting, size: str) -> dict[str, Any]:
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


def budgets(setting: Setting, size: str) -> dict[str, Any]:
    """Forward and backward with a budget for each clip, padded to the longest, against a fixed one.

    Packing is not built; the share of padding is what it could save.
    """
    clips = _clips(setting, 32 if setting.cuda else 4)
    strength = torch.linspace(0.05, 1, len(clips), device=setting.device)[:, None, None, None, None]
    steps = torch.rand(1, 1, setting.frames, 1, 1, device=setting.device) < 0.5
    clips = torch.where(steps, clips, clips[:, :, :1] + strength * clips)
    found: dict[str, Any] = {"size": size, "clips": len(clips)}
    for name, more in (("fixed", {}), ("padded", {"score_share": 0.6})):
        model = _classifier(setting, size, **more).train()
        found[f"{name}_ms"] = round(1e3 * median_seconds(_training(model, clips), setting.device, setting.count), 2)
        if name == "padded":
            with torch.no_grad():
                tubelets, grid = model.cut(clips)
                _, valid = model.select(model.patch_embed(tubelets), grid)
            found["padding_percent"] = round(100 * (1 - float(valid.float().mean())), 1)
    return found | {"packed": "not built"}


def _training(model: Any, clips: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.autocast(clips.device.type, torch.bfloat16):
            loss = model(clips).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def small_batch(setting: Setting, size: str) -> dict[str, Any]:
    """Two clips' step, which launches bound: what CUDA graphs could win at small batches."""
    depth = SIZES[size].depth
    found: dict[str, Any] = {"size": size, "blocks": depth}
    for name, compiled in (("eager", False), ("compiled", True)):
        engine, batches = resident_engine(setting, "pretrain", params_of(setting, size, 2), compiled)

        def once(engine: Any = engine, batches: Any = batches) -> None:
            engine._train_step(batches, 0)
            engine.step += 1
            engine._unread.clear()

        found[f"{name}_ms"] = round(1e3 * median_seconds(once, setting.device, setting.count), 2)
    return found


def graph(setting: Setting, size: str) -> dict[str, Any]:
    """Forward and backward of two clips, replayed as one CUDA graph."""
    import timm

    if not setting.cuda:
        return {"size": size, "graph_ms": None}

    shape: dict[str, Any] = {"img_size": setting.resolution, "num_frames": setting.frames}
    model: Any = timm.create_model(architecture(size, pretrain=True), **shape).to(setting.device).train()
    clips = _clips(setting, 2)
    noise = torch.rand(2, 1568, device=setting.device)

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = model(clips, noise_BN=noise)
        loss.backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    for parameter in model.parameters():
        parameter.grad = None
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        run()
    return {"size": size, "graph_ms": round(1e3 * median_seconds(captured.replay, setting.device, setting.count), 2)}
