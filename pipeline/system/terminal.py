"""What the command line prints: tables that fit a terminal, plain text when there is none; bars of progress.

The only module that knows rich: whatever a name holds (markup, emoji codes, escapes of the terminal) is shown as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.system.text import printable, visible

#: [characters] that a table which does not go to a terminal may take: no name is broken in two.
WIDTH_OF_A_FILE = 10_000
_NEXT = """\
Report                 outputs/report/report.html
Look around            make ui
Compare strategies     source .venv/bin/activate && everest compare --strategies everest,tube --seeds 0,1
Change and rerun       edit params.yaml, then: source .venv/bin/activate && dvc repro
Run as a deployment    prefect deployment run 'experiment/demo' --param overrides='{"finetune.epochs": 2}'
"""


def say(message: str) -> None:
    """A line about progress, on stderr: stdout is for results."""
    _console(stderr=True).print(Text(visible(message)), soft_wrap=True)


def echo(text: str, nl: bool = True) -> None:
    """Whole lines for stdout, for people and pipes alike."""
    typer.echo(visible(text), nl=nl)


def show(value: Any, title: str | None = None) -> None:
    """Print a result for reading: a list of rows as a table, a mapping as pairs, anything else as text."""
    console = _console()
    if isinstance(value, list) and value and isinstance(value[0], dict):
        console.print(table(value, title))
    elif isinstance(value, dict):
        nested = {key: _rows(entry) for key, entry in value.items() if _rows(entry)}
        flat = [{"": key, "value": entry} for key, entry in value.items() if key not in nested]
        if flat:
            console.print(table(flat, title))
        for key, rows in nested.items():
            console.print(table(rows, key))
    else:
        console.print(Text(visible(str(value)) if value else "nothing to show"))


def table(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    """Rows with the same keys as a table; numbers to the right."""
    heading = None if title is None else Text(printable(title), style="table.title")
    drawn = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left")
    for name in dict.fromkeys(key for row in rows for key in row):
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        head = Text(printable(name.replace("_", " ")))
        drawn.add_column(head, justify="right" if numeric else "left", overflow="fold")
    names = [str(key) for key in dict.fromkeys(key for row in rows for key in row)]
    for row in rows:
        drawn.add_row(*(Text(_text(row.get(name))) for name in names))
    return drawn


def show_results(
    summary: dict[str, Any], outcomes: dict[str, str], seconds: float, compared: dict[str, Any] | None = None
) -> None:
    """The end of the main job: results with their cost, what a comparison says, the commands that lead further."""
    console = _console()
    rows = [
        {
            "benchmark": row["benchmark"],
            "strategy": row["strategy"],
            "top-1 % (95 % interval)": f"{row['top1']:.1f} ({row['top1_ci_low']:.1f}-{row['top1_ci_high']:.1f})",
            "trivial model": _number(row["trivial"] and row["trivial"]["top1"], 1),
            "G multiply-adds/clip": _number(row["gmacs_per_clip"], 3),
            "peak memory GiB": _number(row["peak_memory_gib"], 2),
            "clips/s": _number(row["clips_per_second"], 0),
            "wall s": _number(row["wall_seconds"], 0),
        }
        for row in summary["results"]
    ]
    console.print(table(rows, "Results"))
    ran = sum(outcome == "ran" for outcome in outcomes.values())
    others = ", the others were up to date" if ran < len(outcomes) else ""
    console.print(Text(f"{ran} of {len(outcomes)} stages ran{others}; {seconds:.0f} s in all.\n"))
    if compared is not None:
        for sentence in compared["sentences"]:
            console.print(Text(f"- {printable(sentence)}"), soft_wrap=True)
        console.print("  (outputs/compare/report.html)\n")
    console.print(_NEXT, soft_wrap=True)


def show_comparison(found: Mapping[str, Any]) -> None:
    """The end of a comparison: results beside their cost, differences, and what they say in words."""
    console = _console()
    console.print(table(found["results"], "Comparison"))
    if found["differences"]:
        console.print(table(found["differences"], "Differences in points, with their 95 % interval"))
    for sentence in found["sentences"]:
        console.print(Text(f"- {printable(sentence)}"), soft_wrap=True)
    report = printable(found["report"])
    console.print(Text(f"\nReport         {report}\nLook around    make ui"), soft_wrap=True)


def _console(stderr: bool = False) -> Console:
    """Stdout or stderr; in a file or a pipe a table is as wide as it needs to be."""
    plain: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=WIDTH_OF_A_FILE)


def _rows(entry: Any) -> list[dict[str, Any]]:
    """What prints as a table of its own: rows, or mappings by name (which becomes the first column); else none."""
    if isinstance(entry, dict) and all(isinstance(inner, dict) for inner in entry.values()):
        return [{"": name, **inner} for name, inner in entry.items()]
    return entry if isinstance(entry, list) and all(isinstance(row, dict) for row in entry) else []


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{printable(name)} {_text(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(_text(entry) for entry in value) or "none"
    return printable(value)
