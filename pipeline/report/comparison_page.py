"""The comparison's page and plots, from its summary: HTML and Markdown, SVG, and CSV for `dvc plots`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.monitor.record import record_of
from pipeline.report.comparison import StrategyResult, Summary
from pipeline.report.experiment import (
    MEASURED_COLUMNS,
    REFERENCE_COLUMNS,
    published_costs,
    score_columns,
    shown_costs,
    where_from,
)
from pipeline.report.page import Columns, Section, Table, duration, number, write_pages
from pipeline.report.plots import Score, curves, intervals
from pipeline.report.sections.watched import draw_several
from pipeline.report.sentences import Difference, StrategyCost, metric_key, metric_of
from pipeline.report.spent_section import spent_section
from pipeline.report.verdict_section import verdict_section
from pipeline.strategies import compared_facts
from pipeline.system.csv_files import Writer
from pipeline.system.files import atomic_path, write_text

#: A cost of pre-training, the name of its file, its axis. One that no strategy has measured is left out.
COSTS: tuple[tuple[Callable[[StrategyCost], float | None], str, str], ...] = (
    (lambda cost: cost["gmacs_per_clip"], "multiply-adds", "pre-training, G multiply-adds per clip"),
    (lambda cost: cost["wall_seconds"], "time", "pre-training, wall time (s)"),
    (lambda cost: cost["peak_memory_gib"], "memory", "pre-training, peak memory (GiB)"),
    (lambda cost: cost["energy_wh"], "energy", "pre-training, energy (Wh)"),
)


def write_comparison(summary: Summary, folder: Path) -> list[Path]:
    """Write report.html, report.md, summary.json and plots; the files."""
    plots = draw(summary)

    def named(start: str) -> list[str]:
        return [svg for name, svg in plots.items() if name.startswith(start)]

    sections = [
        results_section(summary),
        Section(
            "Accuracy against cost",
            "Mean over seeds with its 95 % interval. The dashed line joins the strategies that no other beats in both "
            "(Pareto front).",
            plots=named("pareto"),
        ),
        Section("Pre-training, while it ran", _watched_note(summary), plots=named("pretrain_")),
        Section("Learning curves", "Validation score in fine-tuning, mean over seeds.", plots=named("curve")),
        verdict_section(summary["verdict"]) if "verdict" in summary else Section("Early verdict"),
        costs_section(summary),
        spent_section(summary.get("spent", [])),
        _strategies(summary),
        _tokens(summary),
        where_from(summary["data"], summary["versions"]),
    ]
    seeds = ", ".join(map(str, summary["seeds"]))
    subtitle = (
        f"Recipe {summary['recipe']}; seed{'s' * (len(summary['seeds']) > 1)} {seeds}; each strategy's pre-training "
        f"is planned at equal {summary['equal']}, then fine-tuned and tested alike."
    )
    title = "Comparison of pre-training strategies"
    return write_pages(folder, title, subtitle, summary["sentences"], summary, sections, plots)


def draw(summary: Summary) -> dict[str, str]:
    """Accuracy against each cost, and learning curves, by file name."""
    costs = {row["strategy"]: row for row in summary["costs"]}
    styles = {strategy: index for index, strategy in enumerate(costs)}
    plots = {}
    for benchmark, by_strategy in summary["curves"].items():
        results = [row for row in summary["results"] if row["benchmark"] == benchmark]
        called = metric_of(results[0])
        for cost_of, name, axis in COSTS:
            scores: list[Score] = [
                {
                    "name": row["strategy"],
                    "x": cost,
                    "y": row["top1"],
                    "low": row["top1_ci_low"],
                    "high": row["top1_ci_high"],
                    "style": styles[row["strategy"]],
                }
                for row in results
                if (cost := cost_of(costs[row["strategy"]])) is not None
            ]
            if any(score["x"] for score in scores):
                plots[f"pareto_{name}_{benchmark}"] = intervals(
                    scores, title=f"{benchmark}: accuracy against {name}", x=axis, y=f"test {called} (%)"
                )
        series = {strategy: points for strategy, points in by_strategy.items() if points}
        if series:
            plots[f"curve_{benchmark}"] = curves(
                series,
                title=f"{benchmark}: fine-tuning",
                x="optimizer step",
                y=f"validation {called} (%)",
                markers=True,
            )
    seen = {arm: [record_of(record) for record in each] for arm, each in summary.get("pretrainings", {}).items()}
    return plots | draw_several(seen)


def _watched_note(summary: Summary) -> str:
    """What the curves show, and each strategy's health."""
    health = "; ".join(f"{arm}: {', '.join(verdicts)}" for arm, verdicts in summary.get("health", {}).items())
    return (
        "Always the same clips, over what pre-training has spent so far: all strategies on one axis. The loss is a "
        f"share of the mean-predictor's under each strategy's own masks (1: nothing learned). {health}."
    )


def write_plots(summary: Summary, metrics: Path, folder: Path) -> None:
    """Numbers for `dvc metrics show`, and accuracy.csv and curves.csv for `dvc plots show`."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in summary["results"]:
        scores.setdefault(row["benchmark"], {})[row["strategy"]] = {metric_key(row): row["top1"] / 100}
    write_text(metrics, json.dumps(scores, indent=1) + "\n")
    costs = {row["strategy"]: row for row in summary["costs"]}
    _write_csv(
        folder / "accuracy.csv",
        ("benchmark", "strategy", "gmacs_per_clip", "pretrain_seconds", "peak_memory_gib", "top1", "low", "high"),
        [
            (row["benchmark"], row["strategy"], cost["gmacs_per_clip"], cost["wall_seconds"], cost["peak_memory_gib"],
             row["top1"], row["top1_ci_low"], row["top1_ci_high"])
            for row in summary["results"] for cost in [costs[row["strategy"]]]
        ],
    )  # fmt: skip
    _write_csv(
        folder / "curves.csv",
        ("benchmark", "strategy", "step", "top1"),
        [
            (benchmark, strategy, step, top1)
            for benchmark, by_strategy in summary["curves"].items()
            for strategy, points in by_strategy.items()
            for step, top1 in points
        ],
    )


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(head)
        writer.rows(rows)


def results_section(summary: Summary) -> Section:
    """Scores of all strategies, and their differences to the first."""
    columns: Columns[StrategyResult] = {
        "benchmark": lambda row: row["benchmark"],
        "strategy": lambda row: row["strategy"],
        **score_columns(summary["results"]),
        "deviation over seeds": lambda row: number(row["top1_deviation"]),
        **REFERENCE_COLUMNS,
        "test videos": lambda row: str(row["videos"]),
        "G mult-adds / test clip": lambda row: number(row.get("test_gmacs_per_clip"), 3),
        "test clips / s": lambda row: number(row.get("test_clips_per_second"), 1),
        "fine-tuning time": lambda row: duration(row["finetune_seconds"]),
    }
    note = "Means over the seeds. Intervals: bootstrap over test videos and seeds."
    section = Section("Results", note, [Table.of(summary["results"], columns, text=(0, 1))])
    differences: Columns[Difference] = {
        "benchmark": lambda row: row["benchmark"],
        "strategies": lambda row: f"{row['a']} minus {row['b']}",
        "difference in points": lambda row: f"{row['difference']:+.1f}",
        "95 % interval": lambda row: f"{row['low']:+.1f} to {row['high']:+.1f}",
        "told apart": lambda row: "yes" if row["low"] > 0 or row["high"] < 0 else "no",
    }
    if summary["differences"]:
        caption = "Differences on the same test videos"
        section.tables.append(Table.of(summary["differences"], differences, caption, text=(0, 1, 4)))
    return section


def costs_section(summary: Summary) -> Section:
    """What the pre-trainings cost, beside what is published."""
    columns: Columns[StrategyCost] = {
        "strategy": lambda row: row["strategy"],
        "epochs": lambda row: str(row["epochs"]),
        "G mult-adds / clip": lambda row: number(row["gmacs_per_clip"], 3),
        "T mult-adds in all": lambda row: number(row["tmacs_total"], 2),
        **MEASURED_COLUMNS,
    }
    caption = (
        "Pre-training: multiply-adds of forward passes, of the tokens that clips kept; the rest as measured, mean over "
        "seeds"
    )
    measured = Table.of(summary["costs"], shown_costs(columns, summary["costs"]), caption)
    return Section("Cost", tables=[measured, published_costs(summary["published"])])


def _strategies(summary: Summary) -> Section:
    rows = [
        [row["strategy"], facts.sentence, facts.source]
        for row in summary["costs"]
        if (facts := compared_facts(row["strategy"]))
    ]
    head = ("strategy", "what it does", "source")
    return Section("Strategies", tables=[Table(head, rows, text=frozenset({0, 1, 2}))] if rows else [])


def _tokens(summary: Summary) -> Section:
    section = Section(
        "Tokens",
        "What each pre-training shows its encoder, hides and reconstructs, on its first clip with its first seed.",
    )
    for picture in summary["pictures"]:
        section.add_picture(Path(picture["path"]), picture["strategy"])
    return section
