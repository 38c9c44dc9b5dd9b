"""What a map says of its cells, its page, and what it lets a folder of videos expect."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.audit.on_map import CellResult, MapSummary, expectation
from pipeline.map.page import write_map
from pipeline.map.summary import sentences

FIRST, OTHER = "everest", "tube"


def cell(mover: float, needed: float, difference: float, half: float, **changes: object) -> CellResult:
    made: CellResult = {
        "place": {"mover": mover},
        "tokens_needed": needed,
        "still": 0.5,
        "seeds": 2,
        "gains": [
            {
                "equal": "epochs", "against": OTHER, "difference": difference, "low": difference - half,
                "high": difference + half, "first": 50.0 + difference, "other": 50.0,
            }
        ],
        "trivial": 30.0,
        "alarms": [],
        "seconds": 9.0,
    }  # fmt: skip
    made.update(changes)  # type: ignore[typeddict-item]
    return made


def summary(*cells: CellResult) -> MapSummary:
    return {
        "recipe": "scenes",
        "benchmark": "motion",
        "design": "star",
        "strategies": [FIRST, OTHER],
        "seeds": [0, 1],
        "axes": {"mover": {"key": "a.b", "centre": 0.15, "unit": "px"}},
        "cells": list(cells),
        "commit": "0" * 40,
        "sentences": sentences(FIRST, cells),
    }


CELLS = (
    cell(0.15, 0.2, 6.0, 2.0),
    cell(0.3, 0.4, 1.0, 3.0),
    cell(0.6, 0.6, -5.0, 4.0, alarms=["everest: learned nothing"], trivial=80.0),
)


def test_sentences_count_where_it_wins_loses_and_nothing_is_known() -> None:
    lines = sentences(FIRST, CELLS)
    assert lines[0] == (
        "At equal epochs, everest is better than tube in 1 of 3 cells and worse in 1; in the others the 95 % interval "
        "holds 0. Worse at: mover 0.6."
    )
    assert lines[1].startswith("In 1 of 3 cells a pre-training raised an alarm")
    assert lines[2] == "In 1 of 3 cells a trivial model is better than all that were trained."


def test_the_page_has_a_figure_over_redundancy_one_over_cells_and_all_numbers(tmp_path: Path) -> None:
    write_map(summary(*CELLS), tmp_path / "map")
    names = {path.name for path in (tmp_path / "map").iterdir()}
    assert names == {
        "report.html", "report.md", "summary.json", "epochs-tube-redundancy.svg", "epochs-tube-cells.svg",
    }  # fmt: skip
    text = (tmp_path / "map" / "report.md").read_text()
    assert "mover 0.6 px" in text
    assert "the centre" in text
    assert "-5.0 (-9.0 to -1.0)" in text
    assert json.loads((tmp_path / "map" / "summary.json").read_text())["cells"] == list(CELLS)


def test_videos_expect_what_the_nearest_cells_gave_with_the_widest_interval() -> None:
    near = summary(*CELLS, *(cell(0.05, needed, 30.0, 1.0) for needed in (0.9, 0.92, 0.94)))
    text = expectation(0.38, near)
    assert text is not None
    assert "everest minus tube at equal epochs was +0.7 points (-9.0 to +8.0)" in text
    assert "20 to 60 % in the nearest 3 cells" in text
    text = expectation(0.38, summary(*CELLS))
    assert text is not None
    assert "; 40 % in the nearest cell of" in text


def test_videos_beside_the_map_expect_nothing_and_without_a_map_nothing_is_said() -> None:
    text = expectation(0.8, summary(*CELLS))
    assert text is not None
    assert "lie beside the map" in text
    assert "points" not in text
    assert expectation(0.4, None) is None
