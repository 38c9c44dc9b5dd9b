"""What a comparison says: strategies at equal cost, with intervals over videos and seeds, as one JSON-able mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.files import read_predictions
from pipeline.evaluation.metrics import hits, mean_and_deviation, seeds_interval, strategy_difference
from pipeline.planning.equal import Trial
from pipeline.report.collect import cost_rows, read_history, read_metrics
from pipeline.report.sentences import comparison_sentences
from pipeline.report.versions import data_versions, versions

#: efficiency/* names of a pre-training that are averaged over the seeds.
MEASURED = ("tokens_per_clip", "peak_memory_gib", "clips_per_second", "mfu", "energy_wh", "wall_seconds")
#: Clips drawn for each strategy.
PICTURES = 1


def summarise(trials: Sequence[Trial], cells: Mapping[str, Path]) -> dict[str, Any]:
    """Results of every strategy and benchmark, differences to the first strategy, costs, curves, versions.

    Args:
        cells: `<arm>-seed<seed>` -> folder of that finished training.

    Raises:
        EverestError: the trainings were evaluated on different videos.
    """
    params = trials[0].params
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    folders = {arm: [cells[t.name] for t in trials if t.arm == arm] for arm in arms}
    results: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for benchmark in trials[0].benchmarks:
        scored = {arm: _hits(folders[arm], benchmark) for arm in arms}
        draws = params.evaluate_of(benchmark).bootstrap
        chance = 100 / params.benchmark(benchmark).data.classes
        results += [_result(arm, benchmark, scored[arm], draws, folders[arm]) | {"chance": chance} for arm in arms]
        differences += [_difference(benchmark, arms[0], other, scored, draws) for other in arms[1:]]
    summary = {
        "recipe": params.recipe,
        "equal": params.compare.equal,
        "seeds": list(params.compare.seeds),
        "results": results,
        "differences": differences,
        "costs": [_cost(arm, [t for t in trials if t.arm == arm], folders[arm]) for arm in arms],
        "curves": {b: _curves(folders, b) for b in trials[0].benchmarks},
        "published": cost_rows(params),
        "pictures": [picture for arm in arms for picture in _pictures(arm, folders[arm][0])],
        "trainings": [
            {"strategy": t.arm, "seed": t.seed, "folder": cells[t.name].name, "epochs": t.epochs} for t in trials
        ],
        "data": data_versions(sorted({*trials[0].benchmarks, *params.pretrain.corpus})),
        "versions": versions(),
    }
    return summary | {"sentences": comparison_sentences(summary)}


def _difference(benchmark: str, first: str, other: str, scored: Mapping[str, np.ndarray], draws: int) -> dict[str, Any]:
    """first - other in percentage points, on the same videos."""
    mean, (low, high) = strategy_difference(scored[first], scored[other], draws)
    row: dict[str, Any] = {"benchmark": benchmark, "a": first, "b": other, "difference": 100 * mean}
    return row | {"low": 100 * low, "high": 100 * high, "seeds": len(scored[other])}


def _hits(folders: Sequence[Path], benchmark: str) -> np.ndarray:
    """Hits [S, V] of the trainings, on the same videos in the same order."""
    found, names = [], None
    for folder in folders:
        table = read_predictions(folder / layout.output_dir("evaluate", benchmark) / "predictions.parquet")
        if names is not None and table["video_id"] != names:
            raise EverestError(
                f"{folder}: {benchmark} was evaluated on other videos than the other trainings. "
                "Cure: delete that folder's outputs and metrics, and run the comparison again."
            )
        names = table["video_id"]
        found.append(hits(table["probabilities"], table["label"]))
    return np.stack(found)


def _result(arm: str, benchmark: str, scored: np.ndarray, draws: int, folders: Sequence[Path]) -> dict[str, Any]:
    mean, deviation = mean_and_deviation(list(scored.mean(axis=1)))
    low, high = seeds_interval(scored, draws)
    return {
        "benchmark": benchmark,
        "strategy": arm,
        "seeds": len(scored),
        "top1": 100 * mean,
        "top1_deviation": None if deviation is None else 100 * deviation,
        "top1_ci_low": 100 * low,
        "top1_ci_high": 100 * high,
        "videos": int(scored.shape[1]),
        "finetune_seconds": _mean(folders, "finetune", benchmark, "wall_seconds"),
    }


def _mean(folders: Sequence[Path], stage: str, benchmark: str | None, name: str) -> float | None:
    found = [read_metrics(f / layout.results_file(stage, benchmark)).get(f"efficiency/{name}") for f in folders]
    values = [value for value in found if value is not None]
    return sum(values) / len(values) if values else None


def _cost(arm: str, trials: Sequence[Trial], folders: Sequence[Path]) -> dict[str, Any]:
    """What a strategy's pre-training costs: planned multiply-adds, and the means of what was measured."""
    trial = trials[0]
    clips = sum(_corpus_size(name) for name in trial.params.pretrain.corpus)
    row = {
        "strategy": arm,
        "epochs": trial.epochs,
        "gmacs_per_clip": trial.gmacs_per_clip,
        "gmacs_per_corpus_clip": trial.pretrain_gmacs,
        "tmacs_total": trial.pretrain_gmacs * clips / 1000,
    }
    if not trial.epochs:
        return row | dict.fromkeys(MEASURED) | {"wall_seconds": 0.0}
    return row | {name: _mean(folders, "pretrain", None, name) for name in MEASURED}


def _corpus_size(name: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(layout.corpus_file(name)).num_rows)


def _curves(folders: Mapping[str, Sequence[Path]], benchmark: str) -> dict[str, list[tuple[float, float]]]:
    """Validation top-1 in percent over steps, mean over the seeds."""
    found = {}
    for arm, cells in folders.items():
        by_step: dict[float, list[float]] = {}
        for folder in cells:
            history = read_history(folder / layout.output_dir("finetune", benchmark) / "history.csv")
            for step, value in history.get("val_top1", []):
                by_step.setdefault(step, []).append(100 * value)
        found[arm] = [(step, sum(values) / len(values)) for step, values in sorted(by_step.items())]
    return found


def _pictures(arm: str, folder: Path) -> list[dict[str, str]]:
    """What the first clips of a pre-training show, hide and reconstruct; the same clips for every strategy."""
    found = sorted((folder / layout.output_dir("pretrain") / "pictures").glob("*.png"))[:PICTURES]
    return [{"strategy": arm, "path": str(path)} for path in found]
