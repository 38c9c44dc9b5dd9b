"""A map as a page: for each comparison a figure over the videos' redundancy, one over the cells, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.audit.on_map import CellResult, MapSummary, comparisons, gain_of
from pipeline.report.page import Section, Table, write_pages
from pipeline.report.plots import against, ranges
from pipeline.system.files import atomic_folder

NEEDED = "tokens that hold 80 % of the change (%)"


def write_map(summary: MapSummary, folder: Path) -> None:
    """Write report.html, report.md, summary.json and the figures to a folder, as a whole."""
    plots: dict[str, str] = {}
    sections = []
    cells = summary["cells"]
    for equal, other in comparisons(cells):
        title = f"{summary['strategies'][0]} minus {other} at equal {equal}"
        gains = [(cell, gain_of(cell, equal, other)) for cell in cells]
        over = against(
            [(100 * cell["tokens_needed"], gain["difference"], gain["low"], gain["high"]) for cell, gain in gains],
            title=title,
            x=NEEDED,
            y="points of accuracy",
        )
        by_cell = ranges(
            [varied(summary, cell) for cell in cells],
            [(gain["difference"], gain["low"], gain["high"]) for _, gain in gains],
            title=title,
            x="points of accuracy, 95 % interval",
        )
        name = f"{equal}-{other}"
        plots |= {f"{name}-redundancy": over, f"{name}-cells": by_cell}
        sections.append(
            Section(
                title,
                "Each point is a cell: one set of drawn videos, all strategies with all seeds. To the left, few tokens "
                "hold most of the change. Intervals are over seeds and test videos.",
                plots=[over, by_cell],
            )
        )
    sections.append(Section("Data", "Scores in percent, means over seeds.", tables=[_table(summary, cells)]))
    subtitle = (
        f"Recipe {summary['recipe']}, benchmark {summary['benchmark']}, seeds "
        f"{', '.join(map(str, summary['seeds']))}, commit {summary['commit'][:12]}. "
        + "; ".join(f"{name}: {axis['key']}" for name, axis in summary["axes"].items())
    )
    with atomic_folder(folder) as building:
        write_pages(building, "Where dropping tokens pays", subtitle, summary["sentences"], summary, sections, plots)


def varied(summary: MapSummary, cell: CellResult) -> str:
    """What a cell has unlike the centre; all of its place in a grid."""
    place = cell["place"]
    if summary["design"] == "star":
        place = {axis: value for axis, value in place.items() if value != summary["axes"][axis]["centre"]}
    words = [f"{axis} {value}{unit(summary, axis)}" for axis, value in place.items()]
    return ", ".join(words) or "the centre"


def unit(summary: MapSummary, axis: str) -> str:
    """` px` for an axis in pixels."""
    text = summary["axes"][axis]["unit"]
    return f" {text}" if text else ""


def _table(summary: MapSummary, cells: Sequence[CellResult]) -> Table:
    pairs = comparisons(cells)
    head = ["cell", NEEDED, "best trivial model"]
    for equal, other in pairs:
        head += [f"{summary['strategies'][0]}, equal {equal}", other, "difference (95 %)"]
    rows = []
    for cell in cells:
        trivial = "" if cell["trivial"] is None else f"{cell['trivial']:.1f}"
        row = [varied(summary, cell), f"{100 * cell['tokens_needed']:.0f}", trivial]
        for equal, other in pairs:
            gain = gain_of(cell, equal, other)
            row += [
                f"{gain['first']:.1f}",
                f"{gain['other']:.1f}",
                f"{gain['difference']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})",
            ]
        rows.append([*row, "; ".join(cell["alarms"])])
    return Table([*head, "alarms"], rows, text=frozenset({0, len(head)}))
