"""CSV files that hold names: harmless in a spreadsheet, and read here as they were written.

A spreadsheet runs a cell that begins with = + - or @ (a tab or a line end before it changes nothing). Such a text gets
an apostrophe in front, which spreadsheets take as "text", and so does one that begins with an apostrophe before such a
sign, so that :func:`read_rows` takes away exactly what :class:`Writer` put there. Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from pipeline.system.text import storable

#: As Excel, LibreOffice and Google Sheets read them: blanks in front and the wide forms of the signs count too.
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")


class Writer:
    """Rows into an open file (`newline=""`)."""

    def __init__(self, file: TextIO, lineterminator: str = "\r\n") -> None:
        self._file = file
        self._end = lineterminator

    def row(self, cells: Iterable[object]) -> None:
        line = io.StringIO()
        # Python before 3.13 puts a cell in quotes only for the characters of its own line's end.
        csv.writer(line, lineterminator="\r\n").writerow([guarded(cell) for cell in cells])
        self._file.write(line.getvalue().removesuffix("\r\n") + self._end)

    def rows(self, rows: Iterable[Iterable[object]]) -> None:
        for cells in rows:
            self.row(cells)


def read_rows(path: Path) -> list[list[str]]:
    """All rows of a file of :class:`Writer`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [[unguarded(cell) for cell in row] for row in csv.reader(file)]


def guarded(cell: object) -> object:
    """A cell as it is written."""
    text = storable(cell)
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """A cell as it was before :func:`guarded`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
