"""The whole map: every cell of a plan in turn, then one page with its figure and its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline import layout, preflight
from pipeline.audit.on_map import CellResult, Value
from pipeline.map.cells import result_of, run_cell
from pipeline.map.page import write_map
from pipeline.map.plan import Cell, MapPlan, cells, load_plan
from pipeline.map.summary import summarise
from pipeline.planning.equal import plan as trainings_of
from pipeline.system.processes import save_with_parent

RESULTS = layout.output_dir("map")
RECIPES = Path("recipes")

#: A row for the terminal: heading -> value.
Shown = dict[str, str | int | float | None]


class Outcome(TypedDict):
    """What a map says, or, of a dry run, what would run."""

    cells: list[Shown]
    sentences: NotRequired[list[str]]
    report: NotRequired[str]


def command(path: Path, dry_run: bool = False) -> Outcome:
    """Run a plan and write outputs/map: report.html, report.md, summary.json and the figures.

    Raises:
        InputError: the plan, or a cell's parameters, are wrong; nothing was started.
        EverestError: a stage failed.
        Interrupted: stopped; the same command continues.
    """
    from pipeline.experiments.stage import only_one

    plan = load_plan(path)
    todo = cells(plan, RECIPES)
    if dry_run:
        return {"cells": [_row(cell) for cell in todo]}
    save_with_parent()
    for cell in todo:
        preflight.require(preflight.chain_scope(cell.any_params))
    with only_one("map"):
        results = [
            run_cell(cell, plan.benchmark, f"[{number}/{len(todo)}] {cell.name}") for number, cell in enumerate(todo, 1)
        ]
        summary = summarise(plan, results)
        write_map(summary, RESULTS)
    return {
        "cells": [_shown(plan, result) for result in results],
        "sentences": summary["sentences"],
        "report": str(RESULTS / "report.html"),
    }


def _row(cell: Cell) -> Shown:
    """A planned cell; trainings that comparisons of one cell have in common run once."""
    trials = {
        (trial.arm, trial.seed, trial.epochs): trial
        for params in cell.params.values()
        if params.compare.equal != "wall-time"  # its epochs are known when rates are measured
        for trial in trainings_of(params)
    }
    return {
        **_axes(cell.place),
        "trainings": len(trials),
        "G multiply-adds/clip, all pre-trainings": round(sum(trial.pretrain_gmacs for trial in trials.values()), 1),
        "done": "yes" if result_of(cell) else "",
    }


def _shown(plan: MapPlan, result: CellResult) -> Shown:
    """A finished cell for the terminal."""
    gains: Shown = {
        f"{plan.strategies[0]} - {gain['against']}, equal {gain['equal']}": (
            f"{gain['difference']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"
        )
        for gain in result["gains"]
    }
    return {**_axes(result["place"]), "tokens with 80 % of change": f"{100 * result['tokens_needed']:.0f} %", **gains}


def _axes(place: Mapping[str, Value]) -> Shown:
    """A cell's value on each axis; what is no number or text as its word."""
    return {axis: value if isinstance(value, int | float | str) else str(value) for axis, value in place.items()}
