"""Rows of results: one JSON line each, on the disk before the next begins."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

#: begun: it did not end, for its process was cut off or died. left out: it did not fit in the time.
Status = Literal["begun", "ok", "failed", "left out"]


@dataclass(frozen=True)
class Row:
    """One check or measurement.

    Attributes:
        values: what was measured, units in the names.
        error: of a failed row, what it expected or the exception's text.
        seconds: that it took.
    """

    part: str
    name: str
    status: Status
    values: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def append(path: Path, row: Row) -> None:
    """Add a row and wait for the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """The last state of each row, in the order in which they began; a torn last line is left out."""
    rows: dict[tuple[str, str], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = Row(**json.loads(line))
        except ValueError:
            continue
        rows[row.part, row.name] = row
    return list(rows.values())
