"""The comparison's plots: SVG for its page, CSV for `dvc plots`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.report.plots import curves, intervals
from pipeline.system.csv_files import Writer
from pipeline.system.files import atomic_path, write_text

#: Cost of pre-training -> file name, axis. One that no strategy has measured is left out.
COSTS = {
    "gmacs_per_clip": ("multiply-adds", "pre-training, G multiply-adds per clip"),
    "wall_seconds": ("time", "pre-training, wall time (s)"),
    "peak_memory_gib": ("memory", "pre-training, peak memory (GiB)"),
    "energy_wh": ("energy", "pre-training, energy (Wh)"),
}


def draw(summary: dict[str, Any]) -> dict[str, str]:
    """Accuracy against each cost, and learning curves, by file name."""
    cost = {row["strategy"]: row for row in summary["costs"]}
    look = {arm: index for index, arm in enumerate(cost)}
    plots = {}
    for benchmark, found in summary["curves"].items():
        rows = [row for row in summary["results"] if row["benchmark"] == benchmark]
        for key, (name, label) in COSTS.items():
            points = [
                {"name": r["strategy"], "x": cost[r["strategy"]][key], "y": r["top1"],
                 "low": r["top1_ci_low"], "high": r["top1_ci_high"], "style": look[r["strategy"]]}
                for r in rows if cost[r["strategy"]][key] is not None
            ]  # fmt: skip
            if any(point["x"] for point in points):
                plots[f"pareto_{name}_{benchmark}"] = intervals(
                    points, title=f"{benchmark}: accuracy against {name}", x=label, y="test top-1 (%)"
                )
        series = {arm: points for arm, points in found.items() if points}
        if series:
            plots[f"curve_{benchmark}"] = curves(
                series, title=f"{benchmark}: fine-tuning", x="optimizer step", y="validation top-1 (%)", markers=True
            )
    return plots


def write_plots(summary: dict[str, Any], metrics: Path, folder: Path) -> None:
    """Numbers for `dvc metrics show`, and accuracy.csv and curves.csv for `dvc plots show`."""
    scored: dict[str, dict[str, Any]] = {}
    for row in summary["results"]:
        scored.setdefault(row["benchmark"], {})[row["strategy"]] = {"top1": row["top1"] / 100}
    write_text(metrics, json.dumps(scored, indent=1) + "\n")
    cost = {row["strategy"]: row for row in summary["costs"]}
    accuracy = [
        {
            "benchmark": row["benchmark"],
            "strategy": row["strategy"],
            "gmacs_per_clip": cost[row["strategy"]]["gmacs_per_clip"],
            "pretrain_seconds": cost[row["strategy"]]["wall_seconds"],
            "peak_memory_gib": cost[row["strategy"]]["peak_memory_gib"],
            "top1": row["top1"],
            "low": row["top1_ci_low"],
            "high": row["top1_ci_high"],
        }
        for row in summary["results"]
    ]
    learning = [
        {"benchmark": benchmark, "strategy": arm, "step": step, "top1": value}
        for benchmark, by_arm in summary["curves"].items()
        for arm, points in by_arm.items()
        for step, value in points
    ]
    _write_csv(folder / "accuracy.csv", accuracy)
    _write_csv(folder / "curves.csv", learning)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(rows[0] if rows else ["benchmark", "strategy", "step", "top1"])
        writer.rows(row.values() for row in rows)
