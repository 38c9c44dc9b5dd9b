"""The few numbers of a stage that people compare: DVC's metrics, and the words at a stage's end. MLflow has all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.layout import metrics_file
from pipeline.system.progress import clock
from pipeline.tracking import names

#: Accuracy with its interval and what it counts, loss, multiply-adds, memory, time.
HEADLINE = (
    names.EVAL_TOP1, names.EVAL_TOP1_LOW, names.EVAL_TOP1_HIGH, names.EVAL_VIDEOS_OK, names.EVAL_VIDEOS_TOTAL,
    names.VAL_TOP1, names.TRAIN_LOSS, names.DATA_VIDEOS_OK, names.DATA_VIDEOS_TOTAL, names.GMACS_PER_CLIP,
    names.PEAK_MEMORY_GIB, names.WALL_SECONDS,
)  # fmt: skip
#: What stands in the place of top-1 where videos have several classes each.
OF_SEVERAL = dict(zip(names.SCORES[0][:4], names.SCORES[1][:4], strict=True))


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of a stage's metrics that are in its file for DVC."""
    every = [each for name in HEADLINE for each in (name, OF_SEVERAL.get(name, name))]
    return {name: metrics[name] for name in every if name in metrics}


def words(stage: str, benchmark: str | None, folder: Path = Path()) -> str:
    """A finished stage's result in a few words, `loss 0.532`; empty where its metrics hold none."""
    try:
        metrics = json.loads((folder / metrics_file(stage, benchmark)).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ""
    parts = []
    for value, low, high, _, called in names.SCORES:
        if value in metrics:
            parts.append(f"{called} {100 * metrics[value]:.1f} %")
        if {value, low, high} <= metrics.keys():
            parts[-1] += f" (95 % interval {100 * metrics[low]:.1f} to {100 * metrics[high]:.1f})"
    if names.TRAIN_LOSS in metrics:
        parts.append(f"loss {metrics[names.TRAIN_LOSS]:.3f}")
    for *_, value, called in names.SCORES:
        if value in metrics:
            parts.append(f"validation {called} {100 * metrics[value]:.1f} %")
    for ok, total in (
        (names.DATA_VIDEOS_OK, names.DATA_VIDEOS_TOTAL),
        (names.EVAL_VIDEOS_OK, names.EVAL_VIDEOS_TOTAL),
    ):
        if {ok, total} <= metrics.keys():
            parts.append(f"{metrics[ok]:.0f} of {metrics[total]:.0f} videos")
    return ", ".join(parts)


def ran(stage: str, benchmark: str | None, folder: Path, seconds: float) -> str:
    """The end of a stage's line: `ran in 1:20, loss 0.532`."""
    result = words(stage, benchmark, folder)
    return f"ran in {clock(seconds)}" + (f", {result}" if result else "")
