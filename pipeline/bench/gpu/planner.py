"""Planner: what `everest plan` says of the measured steps, and the shares that it takes from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TypedDict, cast

from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.rows import read
from pipeline.bench.gpu.run import machine
from pipeline.bench.gpu.setting import Setting, params_of
from pipeline.bench.harness import Figures
from pipeline.planning.calibration import key
from pipeline.planning.stage_cost import ASSUMED_MFU, StageCost


class Step(TypedDict):
    """What the planner reads of a row that `fast.step` measured."""

    stage: str
    size: str
    strategy: str
    compiled: bool
    clips: int
    tokens: int
    step_ms: float
    peak_gib: float | None
    gmacs_per_clip: float
    mfu: float | None
    share_of_measured_peak: float


def checks(setting: Setting) -> Iterator[Check]:
    """The shares first: they are what stays. Then a row for each measured step."""
    rows = read(setting.results)
    steps = [cast("Step", row.values) for row in rows if row.part == "fast" and "step_ms" in row.values]
    yield Check("calibrate", 0.5, partial(calibrate, steps=steps))
    for step in steps:
        name = f"{step['stage']} {step['size']}, {step['tokens']} tokens, {'compiled' if step['compiled'] else 'eager'}"
        yield Check(name, 4, partial(compared, step=step))


def calibrate(setting: Setting, steps: list[Step]) -> Figures:
    """Write calibration.json: shares of the data sheet's peak by stage, size and way of running, with their origin.

    Only those of the recipe's strategy, and where that was measured with several budgets, the recipe's own is first. A
    rehearsal's shares are of the measured peak of its CPU, and no plan takes them: no GPU has that name.
    """
    params = params_of(setting, setting.sizes[0], 2)
    own = {"pretrain": params.pretrain.strategy, "finetune": params.finetune.strategy}
    shares = {
        key(step["stage"], step["size"], step["compiled"]): share
        for step in reversed(steps)
        if (share := step["mfu"] or step["share_of_measured_peak"]) and step["strategy"] == own[step["stage"]]
    }
    document = {**machine(setting.device.type), "recipe": params.recipe, "shares": shares}
    (setting.out / "calibration.json").write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    return {"shares": len(shares), "assumed_until_now": ASSUMED_MFU}


def compared(setting: Setting, step: Step) -> Figures:
    """Step time at the assumed share and memory, predicted and measured."""
    strategy = {f"{step['stage']}__strategy": step["strategy"]}
    params = params_of(setting, step["size"], max(2, step["clips"]), **strategy)
    benchmark = None if step["stage"] == "pretrain" else "k400"
    figures: Figures = {"clips": step["clips"], "measured_ms": step["step_ms"]}
    if known := setting.known:
        flops = 6e9 * step["gmacs_per_clip"] * step["clips"]
        predicted = 1e3 * flops / (known.half * ASSUMED_MFU)
        error = round(100 * (predicted / step["step_ms"] - 1), 1)
        figures |= {"predicted_ms": round(predicted, 2), "time_error_percent": error}
    predicted = StageCost(params, benchmark).memory(1).at(step["clips"]) / 2**30
    figures |= {"predicted_gib": round(predicted, 3), "measured_gib": None}
    if step["peak_gib"]:
        frames = 2 * step["clips"] * setting.frames * setting.height * setting.width * 3 / 2**30
        measured = step["peak_gib"] - frames  # without the benchmark's own clips
        figures |= {
            "measured_gib": round(measured, 3),
            "memory_error_percent": round(100 * (predicted / measured - 1), 1),
        }
    return figures
