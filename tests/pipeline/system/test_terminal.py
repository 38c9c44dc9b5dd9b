"""Tables of the command line: what stands in a pipe, and how few rows of many columns are drawn."""

from __future__ import annotations

import pytest

from pipeline.system.terminal import show
from pipeline.system.text import counted


def test_few_rows_of_many_columns_stand_beside_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"stage": name, **{f"entry_{n}": n * scale for n in range(15)}} for name, scale in (("a", 1), ("b", 10))]
    show({"stages": rows})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[1] == ["stage", "a", "b"]
    assert ["entry", "7", "7", "70"] in lines
    assert max(len(" ".join(line)) for line in lines[3:]) < 40


def test_many_rows_and_rows_of_one_name_stay_rows(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"stage": "a", **{f"entry{n}": n for n in range(15)}}
    show({"stages": [row, row]})
    assert sum(line.split()[:2] == ["a", "0"] for line in capsys.readouterr().out.splitlines()) == 2


def test_one_is_no_plural() -> None:
    assert [counted(1, "video"), counted(2, "video"), counted(1, "class", "classes")] == [
        "1 video",
        "2 videos",
        "1 class",
    ]
