"""What a trial of faults found, as a row of the table that `make faults` prints."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """One row of the table: `bad` of `trials` went wrong, `note` is what else was measured."""

    row: int
    fault: str
    trials: int
    bad: int
    note: str = ""
