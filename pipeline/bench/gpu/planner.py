"""Planner: what `everest plan` says of the measured steps, and the shares that it takes from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.machine import machine
from pipeline.bench.gpu.rows import read
from pipeline.bench.gpu.setting import Setting, params_of
from pipeline.efficiency.meters import known_device
from pipeline.planning.calibration import key
from pipeline.planning.plan import ASSUMED_MFU, memory_of, model_of


def checks(setting: Setting) -> Iterator[Check]:
    """The shares first: they are what stays. Then a row for each measured step."""
    steps = [
        row.values for row in read(setting.out / "results.jsonl") if row.part == "fast" and "step_ms" in row.values
    ]
    yield Check("calibrate", lambda: calibrate(setting, steps), setting.needs(0.5))
    for step in steps:
        name = f"{step['stage']} {step['size']}, {step['tokens']} tokens, {'compiled' if step['compiled'] else 'eager'}"
        yield Check(name, lambda step=step: compared(setting, step), setting.needs(4))  # type: ignore[misc]


def calibrate(setting: Setting, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Write calibration.json: shares of the data sheet's peak by stage, size and way of running, with their origin.

    A rehearsal's shares are of the measured peak of its CPU, and no plan takes them: no GPU has that name.
    """
    about = machine(setting.device.type)
    recipe = params_of(setting, setting.sizes[0], 2)
    shares = {
        key(step["stage"], step["size"], step["compiled"]): step["mfu"] or step["share_of_measured_peak"]
        for step in reversed(steps)  # where a stage was measured with several budgets, the recipe's own is first
        if step["mfu"] or step["share_of_measured_peak"]
    }
    document = {**about, "recipe": recipe.recipe, "shares": shares}
    (setting.out / "calibration.json").write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    return {"shares": len(shares), "assumed_until_now": ASSUMED_MFU}


def compared(setting: Setting, step: dict[str, Any]) -> dict[str, Any]:
    """Step time at the assumed share and memory, predicted and measured."""
    import torch

    pretrain = step["stage"] == "pretrain"
    params = params_of(setting, step["size"], max(2, step["clips"]))
    benchmark = None if pretrain else "k400"
    found: dict[str, Any] = {"clips": step["clips"], "measured_ms": step["step_ms"]}
    known = known_device(torch.cuda.get_device_name(setting.device)) if setting.cuda else None
    if known:
        flops = 6e9 * step["gmacs_per_clip"] * step["clips"]
        found["predicted_ms"] = round(1e3 * flops / (known.half * ASSUMED_MFU), 2)
        found["time_error_percent"] = round(100 * (found["predicted_ms"] / step["step_ms"] - 1), 1)
    _, per_clip, fixed = memory_of(model_of(benchmark, params), "bf16", params, 1)
    found["predicted_gib"] = round((fixed + per_clip * step["clips"]) / 2**30, 3)
    found["measured_gib"] = step["peak_gib"]
    if step["peak_gib"]:
        frames = 2 * step["clips"] * setting.frames * setting.height * setting.width * 3 / 2**30
        found["measured_gib"] = round(step["peak_gib"] - frames, 3)  # without the benchmark's own clips
        found["memory_error_percent"] = round(100 * (found["predicted_gib"] / found["measured_gib"] - 1), 1)
    return found
