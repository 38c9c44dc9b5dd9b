"""What the command line prints: tables that fit a terminal, plain text when there is none; bars of progress.

The only module that knows rich: whatever a name holds (markup, emoji codes, escapes of the terminal) is shown as it is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.system.text import printable, visible

#: [characters] that a table which does not go to a terminal may take: no name is broken in two.
WIDTH_OF_A_FILE = 10_000

#: Columns from which on a few rows stand beside one another instead, a column for each: no line takes such a width.
WIDE, SIDE_BY_SIDE = 12, 8

#: A line and its style: "", "bold", "dim", "red", "green" or "yellow".
Styled = tuple[str, str]


def say(message: str) -> None:
    """A line about progress, on stderr: stdout is for results."""
    _console(stderr=True).print(Text(visible(message)), soft_wrap=True)


def echo(text: str, nl: bool = True) -> None:
    """Whole lines for stdout, for people and pipes alike."""
    typer.echo(visible(text), nl=nl)


def show(value: object, title: str | None = None) -> None:
    """Print a result for reading: a list of rows as a table, a mapping as pairs, anything else as text."""
    out = _console()
    if isinstance(value, list) and value and isinstance(value[0], dict):
        out.print(table(value, title))
    elif isinstance(value, dict):
        nested = {key: _rows(entry) for key, entry in value.items() if _rows(entry)}
        flat = [{"": key, "value": entry} for key, entry in value.items() if key not in nested]
        if flat:
            out.print(table(flat, title))
        for key, rows in nested.items():
            out.print(table(_turned(rows), key))
    else:
        out.print(Text(visible(str(value)) if value else "nothing to show"))


def table(rows: Sequence[Mapping[str, object]], title: str | None = None) -> Table:
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


def draw(lines: Sequence[Styled]) -> None:
    """Print lines on stdout; in colour on a terminal, where long ones are wrapped between words."""
    out = _console()
    for text, style in lines:
        out.print(_styled(text, style))


@contextlib.contextmanager
def redrawn() -> Iterator[Callable[[Sequence[Styled]], None]]:
    """Yields a function that shows lines in the place of those before; what was shown last stays.

    On a terminal no more lines than fit. Without one they are printed below one another.
    """
    out = _console()
    if not out.is_terminal:
        yield draw
        return
    with Live(console=out, auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield lambda lines: live.update(Text("\n").join(_styled(*line) for line in lines), refresh=True)


def _styled(text: str, style: str) -> Text:
    return Text(visible(text), style=style)


def _console(stderr: bool = False) -> Console:
    """Stdout or stderr; in a file or a pipe a table is as wide as it needs to be."""
    plain = functools.partial(Console, stderr=stderr, highlight=False, markup=False, emoji=False)
    console = plain()
    return console if console.is_terminal else plain(width=WIDTH_OF_A_FILE)


def _rows(entry: object) -> list[dict[str, object]]:
    """What prints as a table of its own: rows, or mappings by name (which becomes the first column); else none."""
    if isinstance(entry, dict) and all(isinstance(inner, dict) for inner in entry.values()):
        return [{"": name, **inner} for name, inner in entry.items()]
    return entry if isinstance(entry, list) and all(isinstance(row, dict) for row in entry) else []


def _turned(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Few rows of many entries as a row for each entry, under the rows' first entries; others as they are."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    if len(names) < WIDE or len(rows) > SIDE_BY_SIDE:
        return rows
    heads = [_text(row.get(names[0])) for row in rows]
    if len(set(heads)) < len(rows):
        return rows
    return [
        {names[0]: name.replace("_", " "), **{head: row.get(name) for head, row in zip(heads, rows, strict=True)}}
        for name in names[1:]
    ]


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{printable(name)} {_text(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(_text(entry) for entry in value) or "none"
    return printable(value)
