"""The numbers of an experiment's report, as one JSON-able summary. Reads files, draws nothing."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import math
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline import layout
from pipeline.budget.account import AccountRow, account
from pipeline.data import manifest
from pipeline.errors import InputError
from pipeline.evaluation.files import read_predictions
from pipeline.evaluation.metrics import mean_and_deviation
from pipeline.multilabel.precision import mean_chance_precision
from pipeline.params import SCRATCH, Params
from pipeline.report.sections.watched import Watched, sentences_of, watched
from pipeline.report.sentences import BenchmarkResult, Measured, TrivialScore, metric_entry, sentences
from pipeline.strategies import strategy_facts
from pipeline.tracking import names
from pipeline.tracking.context import code_tags, dvc_hashes

#: Packages that decide a result.
PACKAGES = ("torch", "timm", "numpy", "decord", "av", "dvc", "mlflow", "prefect")


class Split(TypedDict):
    """One dataset over its official splits: mean and sample deviation of top-1 in percent."""

    dataset: str
    splits: list[int]
    top1_mean: float
    top1_deviation: float | None


class StageCost(Measured):
    """One training or test."""

    stage: str
    gmacs_per_clip: float | None
    loader_wait_fraction: float | None


class ModelCost(TypedDict):
    """[G multiply-adds] of one clip, computed and, for a model of the papers, as published."""

    size: str
    clip: str
    finetune_all: float
    finetune_everest: float
    pretrain_tube: float
    pretrain_everest: float
    finetune_all_published: NotRequired[float]
    finetune_everest_published: NotRequired[float]
    pretrain_tube_published: NotRequired[float]
    pretrain_everest_published: NotRequired[float]


class DataVersion(TypedDict):
    """Videos of each split, quarantined ones with their reasons, and hashes; counts are absent without a manifest."""

    benchmark: str
    train: NotRequired[int]
    val: NotRequired[int]
    test: NotRequired[int]
    quarantined: NotRequired[int]
    reasons: NotRequired[dict[str, int]]
    manifest_hash: str
    cache_hash: str


class Summary(TypedDict):
    """An experiment's summary.json."""

    recipe: str
    seed: int
    results: list[BenchmarkResult]
    pretrained_here: bool
    splits: list[Split]
    sentences: list[str]
    stages: list[StageCost]
    cost: list[ModelCost]
    spent: NotRequired[list[AccountRow]]
    data: list[DataVersion]
    versions: dict[str, str]
    pretraining: NotRequired[Watched | None]


def collect(params: Params) -> Summary:
    """The summary of the experiment in the current folder.

    Raises:
        InputError: a benchmark of params.yaml has not been evaluated.
    """
    results = [_result(params, benchmark) for benchmark in params.benchmarks]
    seen = watched(layout.output_dir("pretrain")) if starts_from_own(params) else None
    return {
        "recipe": params.recipe,
        "seed": params.seed,
        "results": results,
        "pretrained_here": starts_from_own(params),
        "splits": _splits(params, results),
        "sentences": [*sentences_of(seen), *sentences(results, params)],
        "stages": _stages(params),
        "cost": model_costs(params),
        "spent": account(params),
        "data": data_versions(params.benchmarks),
        "versions": versions(),
        "pretraining": seen,
    }


def read_metrics(path: Path) -> dict[str, float]:
    """The finite numbers of a stage's metrics.json; {} where there is no file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def best_trivial(benchmark: str) -> TrivialScore | None:
    """The best of a benchmark's trivial models; None where the stage `baseline` has not run."""
    path = layout.output_dir("baseline", benchmark) / "baselines.json"
    try:
        rows: list[TrivialScore] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return max(rows, key=lambda row: row["top1"])


def chance(benchmark: str, folder: Path = Path()) -> float:
    """[%] Mean average precision of a random ranking, over the classes that a video has."""
    table = read_predictions(folder / layout.output_dir("evaluate", benchmark) / "predictions.parquet")
    return 100 * mean_chance_precision(table["label"])


def read_history(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Curves of a history.csv: metric -> points (step, value); {} where there is no file."""
    if not path.exists():
        return {}
    metric_of = {column: name for name, column in names.COLUMN_OF.items()}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                if column in metric_of and text and math.isfinite(float(text)):
                    curves.setdefault(metric_of[column], []).append((float(row["step"]), float(text)))
    return curves


def measured(metrics: Mapping[str, float]) -> Measured:
    """The costs among a stage's metrics."""
    cost = {name.removeprefix(names.efficiency("")): value for name, value in metrics.items()}
    return {
        "tokens_per_clip": cost.get("tokens_per_clip"),
        "peak_memory_gib": cost.get("peak_memory_gib"),
        "clips_per_second": cost.get("clips_per_second"),
        "mfu": cost.get("mfu"),
        "energy_wh": cost.get("energy_wh"),
        "wall_seconds": cost.get("wall_seconds"),
    }


def _result(params: Params, benchmark: str) -> BenchmarkResult:
    path = layout.results_file("evaluate", benchmark)
    score = names.score_of(scores := read_metrics(path))
    if score is None:
        raise InputError(f"{path} has no {names.EVAL_TOP1}. Cure: `everest evaluate {benchmark}` first.")
    several = names.EVAL_MAP in scores
    finetune, tests = params.finetune_of(benchmark), params.evaluate_of(benchmark)
    kept_by = strategy_facts()[tests.strategy or finetune.strategy]
    # A model that was not trained here has only what its test cost.
    metrics = scores | read_metrics(layout.results_file("finetune", benchmark))
    return {
        "benchmark": benchmark,
        "strategy": _strategy(params, finetune.init),
        "keep_ratio": finetune.keep_ratio if kept_by.uses_keep_ratio else 1.0,
        "top1": 100 * score.value,
        "top1_ci_low": 100 * score.low,
        "top1_ci_high": 100 * score.high,
        **metric_entry(several),
        "top5": 100 * scores[names.EVAL_TOP5] if names.EVAL_TOP5 in scores else None,
        "class_mean": 100 * scores[names.EVAL_CLASS_MEAN] if names.EVAL_CLASS_MEAN in scores else None,
        "calibration_error": scores[names.EVAL_CALIBRATION_ERROR],
        "chance": chance(benchmark) if several else 100 / params.benchmark(benchmark).data.classes,
        "trivial": best_trivial(benchmark),
        "videos_ok": int(scores[names.EVAL_VIDEOS_OK]),
        "videos_total": int(scores[names.EVAL_VIDEOS_TOTAL]),
        "views": tests.segments * tests.crops,
        "gmacs_per_clip": (scores if tests.strategy else metrics).get(names.GMACS_PER_CLIP),
        "peak_memory_gib": metrics.get(names.PEAK_MEMORY_GIB),
        "clips_per_second": metrics.get(names.CLIPS_PER_SECOND),
        "wall_seconds": metrics.get(names.WALL_SECONDS),
    }


def _strategy(params: Params, init: str) -> str:
    if init == SCRATCH:
        return "from scratch"
    return params.pretrain.strategy if starts_from_own(params) else f"weights of {init}"


def starts_from_own(params: Params) -> bool:
    """Whether the models come from outputs/pretrain: else what lies there is another experiment's."""
    return Path(params.finetune.init) == layout.output_dir("pretrain")


def _splits(params: Params, results: list[BenchmarkResult]) -> list[Split]:
    """Mean and deviation over the official splits of one dataset, where several were run."""
    top1: dict[str, dict[int, float]] = {}
    for row in results:
        data = params.benchmark(row["benchmark"]).data
        if data.source.kind == "official" or data.dataset != "folder":
            top1.setdefault(data.dataset, {})[data.split] = row["top1"]
    rows: list[Split] = []
    for dataset, by_split in top1.items():
        if len(by_split) > 1:
            mean, deviation = mean_and_deviation(list(by_split.values()))
            rows.append(
                {"dataset": dataset, "splits": sorted(by_split), "top1_mean": mean, "top1_deviation": deviation}
            )
    return rows


def _stages(params: Params) -> list[StageCost]:
    """What each training and test cost, as measured."""
    stages: list[tuple[str, str | None]] = [(s, b) for b in params.benchmarks for s in ("finetune", "evaluate")]
    if starts_from_own(params):
        stages.insert(0, ("pretrain", None))
    rows: list[StageCost] = []
    for stage, benchmark in stages:
        if metrics := read_metrics(layout.results_file(stage, benchmark)):
            rows.append(
                {
                    "stage": f"{stage} {benchmark}" if benchmark else stage,
                    "gmacs_per_clip": metrics.get(names.GMACS_PER_CLIP),
                    "loader_wait_fraction": metrics.get(names.efficiency("loader_wait_fraction")),
                    **measured(metrics),
                }
            )
    return rows


#: [G multiply-adds] of one 16 x 224 x 224 clip as published (METHOD section 6): size -> fine-tune with all tokens,
#: fine-tune with 0.6 of them, pre-train with tube masking 0.9, pre-train EVEREST.
PUBLISHED = {
    "small": (56.9, 29.0, 11.5, 5.7),
    "base": (180.3, 98.0, 35.4, 19.8),
    "large": (596.8, 329.8, 83.0, 57.9),
}


def model_costs(params: Params) -> list[ModelCost]:
    """Multiply-adds of this experiment's model, then of the papers' beside what was published."""
    pretrain, clip = params.pretrain, params.clip
    rows = [
        _model_cost(
            pretrain.size,
            clip.frames,
            clip.resolution,
            kept=params.finetune.keep_ratio,
            keep=pretrain.keep_ratio,
            visible=pretrain.visible_ratio,
            depth=pretrain.decoder_depth,
        )
    ]
    for size, (finetune_all, finetune_everest, pretrain_tube, pretrain_everest) in PUBLISHED.items():
        row = _model_cost(size, 16, 224, kept=0.6, keep=0.3, visible=0.1, depth=4)
        row["finetune_all_published"] = finetune_all
        row["finetune_everest_published"] = finetune_everest
        row["pretrain_tube_published"] = pretrain_tube
        row["pretrain_everest_published"] = pretrain_everest
        rows.append(row)
    return rows


def _model_cost(
    size: str, frames: int, resolution: int, *, kept: float, keep: float, visible: float, depth: int
) -> ModelCost:
    """Computed multiply-adds: `kept` of the tokens in fine-tuning; `keep` and `visible` in pre-training."""
    from models.cost import multiply_adds

    cost = functools.partial(multiply_adds, size, frames=frames, resolution=resolution)
    pretrain = functools.partial(cost, "pretrain", visible_ratio=visible, decoder_depth=depth)
    return {
        "size": size,
        "clip": f"{frames} x {resolution} px",
        "finetune_all": cost("finetune", strategy="none").multiply_adds / 1e9,
        "finetune_everest": cost("finetune", strategy="everest", keep_ratio=kept).multiply_adds / 1e9,
        "pretrain_tube": pretrain(strategy="tube", keep_ratio=1.0).multiply_adds / 1e9,
        "pretrain_everest": pretrain(strategy="everest", keep_ratio=keep).multiply_adds / 1e9,
    }


def versions() -> dict[str, str]:
    """Commit, interpreter and the packages that decide a result."""
    installed = code_tags() | {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def data_versions(benchmarks: Iterable[str]) -> list[DataVersion]:
    """Counts and content hashes of each benchmark's data."""
    hashes = dvc_hashes()
    rows = []
    for benchmark in benchmarks:
        row: DataVersion = {
            "benchmark": benchmark,
            "manifest_hash": hashes.get(str(layout.manifest_dir(benchmark)), ""),
            "cache_hash": hashes.get(str(layout.cache_dir(benchmark)), ""),
        }
        path = layout.manifest_dir(benchmark) / "manifest.parquet"
        if path.exists():
            table = manifest.load(path, ["split", "status", "reason"], status=None).to_pylist()
            good = [video["split"] for video in table if video["status"] == "ok"]
            bad = [video["reason"] for video in table if video["status"] != "ok"]
            row |= {"train": good.count("train"), "val": good.count("val"), "test": good.count("test")}
            row |= {"quarantined": len(bad), "reasons": {reason: bad.count(reason) for reason in sorted(set(bad))}}
        rows.append(row)
    return rows
