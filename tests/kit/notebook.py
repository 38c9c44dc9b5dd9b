"""Runs a notebook's cells without Jupyter, in order and in one namespace: `python tests/kit/notebook.py FILE [--keep]`.

A cell's last expression is shown as Jupyter shows it (PNG, HTML or text). With --keep the outputs are written into the
notebook. Cells must be plain Python: no magics, no `display`.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any


class Shown(io.StringIO):
    """What a cell prints, to be kept; also to the terminal as it comes."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        return super().write(text)


def run(cell: dict[str, Any], names: dict[str, Any], number: int) -> None:
    """Run one cell of code and put its outputs into it.

    Raises:
        Exception: what the cell raises.
    """
    source = "".join(cell["source"])
    parts = ast.parse(source, f"cell {number}")
    last = parts.body[-1] if parts.body else None
    value = None
    with contextlib.redirect_stdout(Shown()) as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(last, ast.Expr):
            parts.body.pop()
            exec(compile(parts, f"cell {number}", "exec"), names)
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        else:
            exec(compile(parts, f"cell {number}", "exec"), names)
    cell["outputs"] = []
    cell["execution_count"] = number
    if shown.getvalue():
        cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": lines(shown.getvalue())})
    if value is not None:
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": mime(value)}
        cell["outputs"].append(result)


def mime(value: object) -> dict[str, Any]:
    """A value by its MIME types."""
    data: dict[str, Any] = {"text/plain": lines(repr(value))}
    if hasattr(value, "_repr_html_") and (page := value._repr_html_()):
        data["text/html"] = lines(page)
    if hasattr(value, "_repr_png_") and (picture := value._repr_png_()):
        data["image/png"] = base64.b64encode(picture).decode()
    return data


def lines(text: str) -> list[str]:
    """As notebooks keep text."""
    return text.splitlines(keepends=True)


def main(file: Path, keep: bool) -> None:
    """Run all cells; print the seconds of each."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        for number, cell in enumerate((one for one in notebook["cells"] if one["cell_type"] == "code"), 1):
            began = time.monotonic()
            run(cell, names, number)
            sys.stderr.write(f"cell {number}: {time.monotonic() - began:.1f} s\n")
    finally:
        if keep:
            file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), "--keep" in sys.argv[2:])
