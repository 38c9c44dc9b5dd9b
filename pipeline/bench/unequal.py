"""Clips with budgets of their own: packed against padded, for their numbers and for their speed."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from models.classifier import EverestClassifier, Selected
from models.selection import rero_scores
from models.unequal.packed import rows_of
from pipeline.bench.gpu.checks import Check, expect
from pipeline.bench.gpu.float64 import clip_of, gradients_of, in_precision, small_classifier
from pipeline.bench.gpu.setting import Setting
from pipeline.bench.gpu.timing import median_seconds, peak_gib, reset_peak
from pipeline.bench.harness import Figures, classifier, median_ratio, take_turns

#: Relative error that clips of unequal token counts may have packed, against the same ones padded.
PACKED = {"fp32": 1e-5, "bf16": 5e-2}
#: Clips a second over the padded form's where 45 % of the padded tokens are padding.
PACKED_GOAL = 1.9


def right() -> Iterator[Check]:
    """The checks of their numbers."""
    yield Check("budgets of their own: together against alone", 3, alone)
    for precision in PACKED:
        yield Check(
            f"budgets of their own: packed against padded, {precision}", 3, partial(packed, precision=precision)
        )
    yield Check("budgets of their own: host syncs", 3, packed_waits)


def packed(setting: Setting, precision: str) -> Figures:
    """Clips with budgets of their own, computed without padding: logits and gradients against the padded form."""
    clip = _unequal(setting)
    outputs: dict[bool, tuple[Tensor, Tensor]] = {}
    for without in (True, False):
        model = small_classifier(setting, score_share=0.5).to(setting.device)
        model.packed = without
        with in_precision(setting.device, precision):
            logits = model(clip)
            logits.float().square().mean().backward()
        outputs[without] = logits.detach().float(), gradients_of(model)
    errors = [float((one - other).norm() / other.norm()) for one, other in zip(*outputs.values(), strict=True)]
    bound = PACKED[precision]
    values: Figures = {
        "logits_error": errors[0], "gradient_error": errors[1], "bound": bound, "precision": precision,
        "attention": "variable lengths" if setting.cuda and precision == "bf16" else "clips of equal lengths at once",
    }  # fmt: skip
    return expect(max(errors) <= bound, f"logits and gradients within {bound:g}", values)


def packed_waits(setting: Setting) -> Figures:
    """How often a step of unequal clips waits for the device: once, for the clips' numbers of tokens."""
    model, clip = small_classifier(setting, score_share=0.5).to(setting.device), _unequal(setting)

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            logits = model(clip)
        logits.float().square().mean().backward()

    step()  # the first step allocates and chooses kernels
    if not setting.cuda:
        return {"waits": 0, "mode": "a CPU never waits"}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
    return expect(len(waits) == 1, "one wait", {"waits": len(waits), "mode": "warn"})


def alone(setting: Setting) -> Figures:
    """Clips with budgets of their own, together in one row, against each clip alone."""
    clip = _unequal(setting)
    model = small_classifier(setting, score_share=0.5).to(setting.device).eval()
    with torch.no_grad():
        together = model(clip)
        each = torch.cat([model(clip[row : row + 1]) for row in range(len(clip))])
    error = float((together - each).norm() / each.norm())
    return expect(error < 1e-2, "logits within 1e-2", {"error": error})


def _unequal(setting: Setting) -> Tensor:
    """Four clips, a still one beside busy ones."""
    clip = clip_of(setting, 4, seed=2).to(setting.device)
    clip[0, :, 2:] = clip[0, :, :2].repeat(1, setting.frames // 2 - 1, 1, 1)
    return clip


def fast(setting: Setting, size: str) -> Figures:
    """Forward and backward with budgets of their own, packed and padded in turns, at 45 % of padding; and a fixed one.

    The clips' own scores decide the order of tokens; their numbers are set, so that the share of padding is known.
    """
    shape = {"img_size": setting.resolution, "num_frames": setting.frames, "num_classes": 400}
    fixed, adaptive = (
        classifier(size, **shape, keep_ratio=0.6, score_share=share).to(setting.device) for share in (None, 0.6)
    )
    count = 32 if setting.cuda else 4
    clips = torch.randn(count, 3, setting.frames, setting.resolution, setting.resolution, device=setting.device)
    with torch.no_grad():
        tubelets, grid = adaptive.cut(clips)
        scores = rero_scores(adaptive.patch_embed(tubelets), grid.slots)
    # From a tenth to all of the tokens, in an order that sorts nothing beforehand: 45 % of padding.
    share = torch.linspace(0.1, 1, len(clips), device=clips.device)
    kept = (share * grid.tokens).long().clamp(min=1).view(2, -1).T.flatten()
    ranked = scores.argsort(dim=1, descending=True)

    def select(*_: object) -> Selected:
        return Selected(ranked, rows_of(kept))

    adaptive.select = select  # type: ignore[method-assign,assignment]

    def step(model: EverestClassifier, packed: bool) -> None:
        model.packed = packed
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = model(clips).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    kinds = {
        "packed": partial(step, adaptive, True),
        "padded": partial(step, adaptive, False),
        "fixed": partial(step, fixed, True),
    }
    figures: Figures = {}
    for name, run in kinds.items():
        reset_peak(setting.device)
        run()
        figures[f"{name}_peak_gib"] = peak_gib(setting.device)
    turns = take_turns({name: _timed(run, setting) for name, run in kinds.items()}, setting.count)
    ratio = median_ratio(turns["padded"], turns["packed"])
    figures |= {f"{name}_ms": round(1e3 * statistics.median(times), 2) for name, times in turns.items()}
    return figures | {
        "size": size, "clips": len(clips), "rounds": setting.count, "times_padded": round(ratio, 2),
        "padding_percent": round(100 * (1 - float(kept.float().mean()) / grid.tokens), 1),
        "goal": f">= {PACKED_GOAL:g} times the padded form: {'met' if ratio >= PACKED_GOAL else 'missed'}",
    }  # fmt: skip


def _timed(run: Callable[[], None], setting: Setting) -> Callable[[int], float]:
    """[s] of a call, the device's work included."""

    def seconds(_: int) -> float:
        return median_seconds(run, setting.device, 1, warm_up=1)

    return seconds
