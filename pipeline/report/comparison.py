"""The report of a comparison: strategies at equal cost, with intervals over videos and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.equal import Trial
from pipeline.evaluation.files import read_predictions
from pipeline.evaluation.metrics import hits, mean_and_deviation, seeds_interval, strategy_difference
from pipeline.report.collect import cost_rows, read_history, read_metrics
from pipeline.report.experiment import published_costs
from pipeline.report.page import Section, Table, duration, number
from pipeline.report.plots import curves, intervals
from pipeline.report.sentences import difference
from pipeline.report.versions import versions
from pipeline.report.writing import write_pages


def summarise(trials: Sequence[Trial], cells: Mapping[str, Path], equal: str) -> dict[str, Any]:
    """Results of every strategy and benchmark, differences to the first strategy, costs: one JSON-able
    mapping.

    Args:
        cells: `<arm>-seed<seed>` -> folder of that training.
    """
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    params = trials[0].params
    folders = {arm: [cells[f"{t.arm}-seed{t.seed}"] for t in trials if t.arm == arm] for arm in arms}
    results, differences = [], []
    for benchmark in params.benchmarks:
        scored = {arm: _hits(folders[arm], benchmark) for arm in arms}
        draws = params.evaluate_of(benchmark).bootstrap
        results += [_result(arm, benchmark, scored[arm], draws, folders[arm]) for arm in arms]
        for other in arms[1:]:
            mean, (low, high) = strategy_difference(scored[arms[0]], scored[other], draws)
            row: dict[str, Any] = {"benchmark": benchmark, "a": arms[0], "b": other, "difference": 100 * mean}
            row |= {"low": 100 * low, "high": 100 * high, "seeds": len(folders[other])}
            differences.append(row)
    sentences = [
        f"{row['benchmark']}. "
        + difference(
            row["a"],
            row["b"],
            row["difference"],
            row["low"],
            row["high"],
            row["seeds"],
            f"pre-training {equal}",
        )
        for row in differences
    ]
    budgets = [trial.pretrain_gmacs for trial in trials if trial.pretrain_gmacs]
    if equal == "multiply-adds" and budgets and max(budgets) > 1.05 * min(budgets):
        sentences.append(
            f"Whole epochs make the budgets unequal: {min(budgets):.3g} to {max(budgets):.3g} G multiply-adds for each "
            "clip of the corpus. With more epochs they come closer."
        )
    if len(trials) == len(arms):
        sentences.append(
            "One seed for each strategy: the intervals hold the choice of test videos, not the chance in training."
        )
    return {
        "equal": equal,
        "recipe": params.recipe,
        "results": results,
        "differences": differences,
        "sentences": sentences,
        "costs": [_cost(arm, [t for t in trials if t.arm == arm], folders[arm]) for arm in arms],
        "curves": {b: _curves(folders, b) for b in params.benchmarks},
        "published": cost_rows(params),
        "pictures": _pictures(folders[arms[0]][0], list(params.benchmarks)),
        "versions": versions(),
    }


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
    found = [read_metrics(f / layout.metrics_file(stage, benchmark)).get(f"efficiency/{name}") for f in folders]
    values = [value for value in found if value is not None]
    return sum(values) / len(values) if values else None


def _cost(arm: str, trials: Sequence[Trial], folders: Sequence[Path]) -> dict[str, Any]:
    names = ("peak_memory_gib", "clips_per_second", "mfu", "energy_wh", "wall_seconds")
    return {
        "strategy": arm,
        "epochs": trials[0].params.pretrain.epochs if trials[0].gmacs_per_clip else 0,
        "gmacs_per_clip": trials[0].gmacs_per_clip,
        "gmacs_per_corpus_clip": trials[0].pretrain_gmacs,
        **{name: _mean(folders, "pretrain", None, name) for name in names},
    }


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


def _pictures(folder: Path, benchmarks: Sequence[str]) -> list[str]:
    found = [folder / layout.output_dir("evaluate", b) / "pictures" / "rightly-answered.png" for b in benchmarks]
    return [str(path) for path in found if path.exists()]


def write_comparison(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.html, report.md, summary.json and plots; the files."""
    plots = draw(summary)
    code = [[name, str(version)] for name, version in summary["versions"].items()]
    sections = [
        _results(summary),
        Section("Accuracy against cost", "Mean over seeds with 95 % interval; dashed: the Pareto front.",
                plots=[svg for name, svg in plots.items() if name.startswith("pareto")]),
        Section("Learning curves", "Validation top-1 in fine-tuning, mean over seeds.",
                plots=[svg for name, svg in plots.items() if name.startswith("curve")]),
        _costs(summary),
        _tokens(summary),
        Section("Code", tables=[Table(("what", "version"), code, text=frozenset({0, 1}))]),
    ]  # fmt: skip
    title = f"Strategies at equal {summary['equal']}"
    seeds = max(row["seeds"] for row in summary["results"])
    subtitle = f"Recipe {summary['recipe']}; {seeds} seed{'s' * (seeds > 1)}; fine-tuning is the same for all."
    return write_pages(folder, title, subtitle, summary, sections, plots)


def draw(summary: dict[str, Any]) -> dict[str, str]:
    """Accuracy against time and against multiply-adds, and learning curves, by file name."""
    cost = {row["strategy"]: row for row in summary["costs"]}
    plots = {}
    for benchmark in summary["curves"]:
        rows = [row for row in summary["results"] if row["benchmark"] == benchmark]
        for key, label, what in (
            ("gmacs_per_clip", "G multiply-adds of one pre-training clip", "multiply-adds"),
            ("wall_seconds", "pre-training wall time (s)", "time"),
        ):
            points = [
                {"name": r["strategy"], "x": cost[r["strategy"]][key] or 0.0, "y": r["top1"],
                 "low": r["top1_ci_low"], "high": r["top1_ci_high"]}
                for r in rows
            ]  # fmt: skip
            plots[f"pareto_{what}_{benchmark}"] = intervals(
                points, title=f"{benchmark}: accuracy against {what}", x=label, y="test top-1 (%)"
            )
        series = {arm: points for arm, points in summary["curves"][benchmark].items() if points}
        if series:
            plots[f"curve_{benchmark}"] = curves(
                series, title=benchmark, x="optimizer step", y="validation top-1 (%)", markers=True
            )
    return plots


def _results(summary: dict[str, Any]) -> Section:
    head = (
        "benchmark",
        "strategy",
        "seeds",
        "top-1 %",
        "deviation",
        "95 % interval",
        "videos",
        "fine-tuning",
    )
    rows = [
        [
            row["benchmark"],
            row["strategy"],
            str(row["seeds"]),
            number(row["top1"]),
            number(row["top1_deviation"]),
            f"{row['top1_ci_low']:.1f} – {row['top1_ci_high']:.1f}",
            str(row["videos"]),
            duration(row["finetune_seconds"]),
        ]
        for row in summary["results"]
    ]
    section = Section(
        "Results", "Intervals: bootstrap over videos and seeds.", [Table(head, rows, text=frozenset({0, 1}))]
    )
    if summary["differences"]:
        rows = [
            [row["benchmark"], f"{row['a']} – {row['b']}", f"{row['difference']:+.1f}",
             f"{row['low']:+.1f} – {row['high']:+.1f}"]
            for row in summary["differences"]
        ]  # fmt: skip
        head_of = ("benchmark", "strategies", "difference in points", "95 % interval")
        section.tables.append(Table(head_of, rows, "Differences on the same videos", frozenset({0, 1})))
    return section


def _costs(summary: dict[str, Any]) -> Section:
    head = (
        "strategy", "epochs", "G mult-adds / clip", "G mult-adds, all epochs", "peak memory GiB", "clips / s",
        "MFU", "energy Wh", "wall time",
    )  # fmt: skip
    rows = [
        [
            row["strategy"],
            str(row["epochs"]),
            number(row["gmacs_per_clip"], 3),
            number(row["gmacs_per_corpus_clip"], 3),
            number(row["peak_memory_gib"], 2),
            number(row["clips_per_second"], 0),
            number(row["mfu"], 1, percent=True),
            number(row["energy_wh"], 1),
            duration(row["wall_seconds"]),
        ]
        for row in summary["costs"]
    ]
    caption = "Pre-training as measured, mean over seeds; multiply-adds of forwards, for one clip of the corpus"
    return Section("Cost", tables=[Table(head, rows, caption), published_costs(summary["published"])])


def _tokens(summary: dict[str, Any]) -> Section:
    section = Section("Tokens", "What the fine-tuned model looks at. Dimmed tokens are dropped before the first block.")
    for path in summary["pictures"]:
        section.add_picture(Path(path), Path(path).parents[1].name)
    return section
