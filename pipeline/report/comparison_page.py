"""The comparison's page, from its summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.report.comparison_plots import draw
from pipeline.report.experiment import published_costs, where_from
from pipeline.report.page import Section, Table, duration, number
from pipeline.report.writing import write_pages
from pipeline.strategies import compared_facts


def write_comparison(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.html, report.md, summary.json and plots; the files."""
    plots = draw(summary)

    def named(start: str) -> list[str]:
        return [svg for name, svg in plots.items() if name.startswith(start)]

    sections = [
        _results(summary),
        Section(
            "Accuracy against cost",
            "Mean over seeds with its 95 % interval. The dashed line joins the strategies that no other beats in both "
            "(Pareto front).",
            plots=named("pareto"),
        ),
        Section("Learning curves", "Validation top-1 in fine-tuning, mean over seeds.", plots=named("curve")),
        _costs(summary),
        _strategies(summary),
        _tokens(summary),
        where_from(summary),
    ]
    seeds = ", ".join(map(str, summary["seeds"]))
    subtitle = (
        f"Recipe {summary['recipe']}; seed{'s' * (len(summary['seeds']) > 1)} {seeds}; each strategy is pre-trained "
        f"with equal {summary['equal']}, then fine-tuned and tested alike."
    )
    return write_pages(folder, "Comparison of pre-training strategies", subtitle, summary, sections, plots)


def _results(summary: dict[str, Any]) -> Section:
    head = ("benchmark", "strategy", "top-1 %", "95 % interval", "deviation over seeds", "chance %", "test videos",
            "fine-tuning time")  # fmt: skip
    rows = [
        [
            row["benchmark"],
            row["strategy"],
            number(row["top1"]),
            f"{row['top1_ci_low']:.1f} – {row['top1_ci_high']:.1f}",
            number(row["top1_deviation"]),
            number(row["chance"]),
            str(row["videos"]),
            duration(row["finetune_seconds"]),
        ]
        for row in summary["results"]
    ]
    note = "Means over the seeds. Intervals: bootstrap over test videos and seeds."
    section = Section("Results", note, [Table(head, rows, text=frozenset({0, 1}))])
    if summary["differences"]:
        rows = [
            [
                row["benchmark"],
                f"{row['a']} minus {row['b']}",
                f"{row['difference']:+.1f}",
                f"{row['low']:+.1f} to {row['high']:+.1f}",
                "yes" if row["low"] > 0 or row["high"] < 0 else "no",
            ]
            for row in summary["differences"]
        ]
        head_of = ("benchmark", "strategies", "difference in points", "95 % interval", "told apart")
        section.tables.append(Table(head_of, rows, "Differences on the same test videos", frozenset({0, 1, 4})))
    return section


def _costs(summary: dict[str, Any]) -> Section:
    columns = {
        "epochs": lambda row: str(row["epochs"]),
        "G mult-adds / clip": lambda row: number(row["gmacs_per_clip"], 3),
        "T mult-adds in all": lambda row: number(row["tmacs_total"], 2),
        "tokens / clip": lambda row: number(row["tokens_per_clip"], 0),
        "peak memory GiB": lambda row: number(row["peak_memory_gib"], 2),
        "clips / s": lambda row: number(row["clips_per_second"], 0),
        "MFU": lambda row: number(row["mfu"], 1, percent=True),
        "energy Wh": lambda row: number(row["energy_wh"], 1),
        "wall time": lambda row: duration(row["wall_seconds"]),
    }
    if not any(row["energy_wh"] for row in summary["costs"]):
        del columns["energy Wh"]  # few machines tell it: no column of dashes elsewhere
    rows = [[row["strategy"], *(text(row) for text in columns.values())] for row in summary["costs"]]
    caption = (
        "Pre-training: multiply-adds of forward passes, from the configuration; the rest as measured, mean over seeds"
    )
    return Section("Cost", tables=[Table(("strategy", *columns), rows, caption), published_costs(summary["published"])])


def _strategies(summary: dict[str, Any]) -> Section:
    rows = [
        [row["strategy"], facts.sentence, facts.source]
        for row in summary["costs"]
        if (facts := compared_facts(row["strategy"]))
    ]
    head = ("strategy", "what it does", "source")
    return Section("Strategies", tables=[Table(head, rows, text=frozenset({0, 1, 2}))] if rows else [])


def _tokens(summary: dict[str, Any]) -> Section:
    section = Section(
        "Tokens",
        "What each pre-training shows its encoder, hides and reconstructs, on its first clip with its first seed.",
    )
    for picture in summary["pictures"]:
        section.add_picture(Path(picture["path"]), picture["strategy"])
    return section
