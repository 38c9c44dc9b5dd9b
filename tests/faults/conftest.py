"""The fault trials in full: each test records a figure, and the run ends in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.figure import Figure

_FIGURES: list[Figure] = []


@pytest.fixture
def record() -> Callable[..., None]:
    """Call as record(row, fault, trials, bad, note): fails the test when anything went wrong."""

    def keep(row: int, fault: str, trials: int, bad: int, note: str = "") -> None:
        _FIGURES.append(Figure(row, fault, trials, bad, note))
        assert bad == 0, f"{bad} of {trials} trials went wrong: {fault}. {note}"

    return keep


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _FIGURES:
        return
    terminalreporter.section("faults: what went wrong in how many trials")
    terminalreporter.write_line(f"{'row':>3}  {'fault':<58} {'trials':>6} {'bad':>4}  measured")
    for figure in sorted(_FIGURES, key=lambda figure: figure.row):
        line = f"{figure.row:>3}  {figure.fault:<58} {figure.trials:>6} {figure.bad:>4}  {figure.note}"
        terminalreporter.write_line(line)
