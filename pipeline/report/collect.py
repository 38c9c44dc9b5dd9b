"""Everything the report says, as one JSON-able mapping: `summary.json`. Reads files, draws nothing."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.errors import InputError
from pipeline.evaluation.metrics import mean_and_deviation
from pipeline.params import SCRATCH, Params
from pipeline.report.sentences import sentences
from pipeline.report.versions import data_versions, versions
from pipeline.strategies import strategy_facts

#: efficiency/* names of the table of stages, in its order.
EFFICIENCY = (
    "gmacs_per_clip",
    "tokens_per_clip",
    "peak_memory_gib",
    "clips_per_second",
    "mfu",
    "loader_wait_fraction",
    "energy_wh",
    "wall_seconds",
)


def collect(params: Params) -> dict[str, Any]:
    """The summary of the experiment in the current folder.

    Raises:
        InputError: a benchmark of params.yaml has not been evaluated.
    """
    results = [_result(params, benchmark) for benchmark in params.benchmarks]
    return {
        "recipe": params.recipe,
        "seed": params.seed,
        "results": results,
        "pretrained_here": starts_from_own(params),
        "splits": _splits(params, results),
        "sentences": sentences(results, params),
        "stages": _stages(params),
        "cost": cost_rows(params),
        "data": data_versions(list(params.benchmarks)),
        "versions": versions(),
    }


def read_metrics(path: Path) -> dict[str, float]:
    """The numbers of a metrics file, flat, under `group/name`; {} where there is no file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {k: float(v) for k, v in _flat(raw, "").items() if isinstance(v, int | float) and math.isfinite(v)}


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def read_history(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Curves of a history.csv: column -> points (step, value); {} where there is no file."""
    if not path.exists():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in ("step", "epoch") and text and math.isfinite(float(text)):
                    curves.setdefault(name, []).append((float(row["step"]), float(text)))
    return curves


def _result(params: Params, benchmark: str) -> dict[str, Any]:
    path = layout.results_file("evaluate", benchmark)
    scores = read_metrics(path)
    if "eval/top1" not in scores:
        raise InputError(f"{path} has no eval/top1. Cure: `everest evaluate {benchmark}` first.")
    training = read_metrics(layout.results_file("finetune", benchmark))

    def efficiency(name: str) -> float | None:
        # A model that was not trained here has only what its test cost.
        return training.get(f"efficiency/{name}", scores.get(f"efficiency/{name}"))

    finetune = params.finetune_of(benchmark)
    row = {
        "benchmark": benchmark,
        "strategy": _strategy(params, finetune.init),
        "keep_ratio": finetune.keep_ratio if strategy_facts()[finetune.strategy].uses_keep_ratio else 1.0,
        "top1": 100 * scores["eval/top1"],
        "top1_ci_low": 100 * scores["eval/top1_ci_low"],
        "top1_ci_high": 100 * scores["eval/top1_ci_high"],
        "top5": 100 * scores["eval/top5"] if "eval/top5" in scores else None,
        "class_mean": 100 * scores["eval/class_mean"],
        "calibration_error": scores["eval/calibration_error"],
        "chance": 100 / params.benchmark(benchmark).data.classes,
        "videos_ok": int(scores["eval/videos_ok"]),
        "videos_total": int(scores["eval/videos_total"]),
        "views": params.evaluate_of(benchmark).segments * params.evaluate_of(benchmark).crops,
    }
    names = ("gmacs_per_clip", "peak_memory_gib", "clips_per_second", "wall_seconds")
    return row | {name: efficiency(name) for name in names}


def _strategy(params: Params, init: str) -> str:
    if init == SCRATCH:
        return "from scratch"
    return params.pretrain.strategy if starts_from_own(params) else f"weights of {init}"


def starts_from_own(params: Params) -> bool:
    """Whether the models come from outputs/pretrain: else what lies there is another experiment's."""
    return Path(params.finetune.init) == layout.output_dir("pretrain")


def _splits(params: Params, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the official splits of one dataset, where several were run."""
    groups: dict[str, dict[int, float]] = {}
    for row in results:
        data = params.benchmark(row["benchmark"]).data
        if data.source.kind == "official" or data.dataset != "folder":
            groups.setdefault(data.dataset, {})[data.split] = row["top1"]
    rows = []
    for dataset, by_split in groups.items():
        if len(by_split) > 1:
            mean, deviation = mean_and_deviation(list(by_split.values()))
            rows.append(
                {
                    "dataset": dataset,
                    "splits": sorted(by_split),
                    "top1_mean": mean,
                    "top1_deviation": deviation,
                }
            )
    return rows


def _stages(params: Params) -> list[dict[str, Any]]:
    """What each training and test cost, as measured."""
    files: list[tuple[str, str | None]] = [(s, b) for b in params.benchmarks for s in ("finetune", "evaluate")]
    if starts_from_own(params):
        files.insert(0, ("pretrain", None))
    rows = []
    for stage, benchmark in files:
        metrics = read_metrics(layout.results_file(stage, benchmark))
        if metrics:
            row: dict[str, Any] = {"stage": f"{stage} {benchmark}" if benchmark else stage}
            rows.append(row | {name: metrics.get(f"efficiency/{name}") for name in EFFICIENCY})
    return rows


#: G multiply-adds of one 16 x 224 x 224 clip as published (METHOD section 6): size -> fine-tune with all
#: tokens,
#: fine-tune with 0.6 of them, pre-train with tube masking 0.9, pre-train EVEREST.
PUBLISHED = {
    "small": (56.9, 29.0, 11.5, 5.7),
    "base": (180.3, 98.0, 35.4, 19.8),
    "large": (596.8, 329.8, 83.0, 57.9),
}


def cost_rows(params: Params) -> list[dict[str, Any]]:
    """G multiply-adds a clip, computed beside published, for this experiment's and the papers' models."""
    from models.cost import multiply_adds

    def row(size: str, frames: int, resolution: int, depth: int, published: tuple[float, ...] | None) -> dict[str, Any]:
        clip: dict[str, Any] = {"frames": frames, "resolution": resolution}
        own = published is None
        keep, visible = (
            params.pretrain.keep_ratio if own else 0.3,
            params.pretrain.visible_ratio if own else 0.1,
        )
        kept = params.finetune.keep_ratio if own else 0.6
        computed = (
            multiply_adds(size, "finetune", strategy="none", **clip),
            multiply_adds(size, "finetune", strategy="everest", keep_ratio=kept, **clip),
            multiply_adds(size, "pretrain", strategy="tube", keep_ratio=1.0, visible_ratio=visible,
                          decoder_depth=depth, **clip),
            multiply_adds(size, "pretrain", strategy="everest", keep_ratio=keep, visible_ratio=visible,
                          decoder_depth=depth, **clip),
        )  # fmt: skip
        names = ("finetune_all", "finetune_everest", "pretrain_tube", "pretrain_everest")
        values = {name: cost.multiply_adds / 1e9 for name, cost in zip(names, computed, strict=True)}
        beside = {f"{name}_published": value for name, value in zip(names, published or (), strict=False)}
        return {"size": size, "clip": f"{frames} x {resolution} px", **values, **beside}

    own = row(params.pretrain.size, params.clip.frames, params.clip.resolution, params.pretrain.decoder_depth, None)
    return [own, *(row(size, 16, 224, 4, published) for size, published in PUBLISHED.items())]
