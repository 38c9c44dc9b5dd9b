"""gpu.md: the rows as tables, to be put into docs/gpu.md as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.bench.gpu.rows import Row
from pipeline.system.text import markdown

TITLES = {
    "right": "Right", "fast": "Fast", "planner": "Planned against measured", "fed": "Fed", "learns": "Learns",
}  # fmt: skip


def page(about: dict[str, Any], rows: Sequence[Row]) -> str:
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


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
