"""Rows of results: one JSON line each, on the disk before the next begins; at the end the tables of docs/gpu.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.bench.harness import Figure, Figures
from pipeline.system.files import flush
from pipeline.system.text import markdown

TITLES = {
    "right": "Right", "fast": "Fast", "planner": "Planned against measured", "fed": "Fed", "learns": "Learns",
}  # fmt: skip

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
    values: Figures = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def append(path: Path, row: Row) -> None:
    """Add a row and wait for the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), default=str) + "\n")
        flush(file)


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


def page(about: Figures, rows: Sequence[Row]) -> str:
    """The page of one run."""
    lines = [f"## {about['device']}, {about['date']}", ""]
    known = [key for key in about if key not in ("device", "date", "command")]
    lines += [", ".join(f"{key} {about[key]}" for key in known) + ".", "", f"`{about.get('command', '')}`", ""]
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"### {TITLES.get(part, part)}", "", *_tables([row for row in rows if row.part == part]), ""]
    return "\n".join(lines)


def _tables(rows: list[Row]) -> list[str]:
    """Rows with the same figures share a table; failed ones and those left out are told below."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.values:
            groups.setdefault(tuple(row.values), []).append(row)
    lines: list[str] = []
    for names, some in groups.items():
        head = ["", *(name.replace("_", " ") for name in names), "", "s"]
        lines += [_line(head), "|" + "---|" * len(head)]
        lines += [_line([row.name, *map(_cell, row.values.values()), row.status, f"{row.seconds:g}"]) for row in some]
        lines.append("")
    for row in rows:
        if row.error or row.status == "begun":
            lines.append(f"- **{row.status}** {markdown(row.name)}: {markdown(row.error or 'cut off')}")
    return lines


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"


def _cell(value: Figure) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
