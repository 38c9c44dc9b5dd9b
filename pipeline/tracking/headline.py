"""The few numbers of a stage that people compare: DVC's metrics, and the words at a stage's end. MLflow has all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.layout import metrics_file
from pipeline.system.progress import clock

#: Accuracy with its interval and what it counts, loss, multiply-adds, memory, time.
HEADLINE = (
    "eval/top1", "eval/top1_ci_low", "eval/top1_ci_high", "eval/videos_ok", "eval/videos_total", "val/top1",
    "train/loss", "data/videos_ok", "data/videos_total", "efficiency/gmacs_per_clip", "efficiency/peak_memory_gib",
    "efficiency/wall_seconds",
)  # fmt: skip


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a stage's metrics that are in its file for DVC."""
    return {name: metrics[name] for name in HEADLINE if name in metrics}


def words(stage: str, benchmark: str | None, folder: Path = Path()) -> str:
    """A finished stage's result in a few words, `loss 0.532`; empty where its metrics hold none."""
    try:
        metrics = json.loads((folder / metrics_file(stage, benchmark)).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ""
    told = []
    if "eval/top1" in metrics:
        told.append(f"top-1 {100 * metrics['eval/top1']:.1f} %")
    if {"eval/top1", "eval/top1_ci_low", "eval/top1_ci_high"} <= metrics.keys():
        low, high = 100 * metrics["eval/top1_ci_low"], 100 * metrics["eval/top1_ci_high"]
        told[-1] += f" (95 % interval {low:.1f} to {high:.1f})"
    if "train/loss" in metrics:
        told.append(f"loss {metrics['train/loss']:.3f}")
    if "val/top1" in metrics:
        told.append(f"validation top-1 {100 * metrics['val/top1']:.1f} %")
    groups = [g for g in ("data", "eval") if {f"{g}/videos_ok", f"{g}/videos_total"} <= metrics.keys()]
    told += [f"{metrics[f'{g}/videos_ok']:.0f} of {metrics[f'{g}/videos_total']:.0f} videos" for g in groups]
    return ", ".join(told)


def ran(stage: str, benchmark: str | None, folder: Path, seconds: float) -> str:
    """The end of a stage's line: `ran in 1:20, loss 0.532`."""
    result = words(stage, benchmark, folder)
    return f"ran in {clock(seconds)}" + (f", {result}" if result else "")
