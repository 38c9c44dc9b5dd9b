"""What all commands share: the --json switch and how a result is printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from pipeline.errors import InputError

#: The models that there are, for helps: importing their registry takes seconds.
SIZES = "tiny, mini, small, base, large or huge"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def emit(value: object, as_json: bool, title: str | None = None) -> None:
    """Print a result on stdout: a JSON document, or tables made for reading."""
    if as_json:
        from pipeline.system.text import json_document

        typer.echo(json_document(value, indent=2))
        return
    from pipeline.system.terminal import show

    show(value, title)


def emit_with_lines(
    result: Mapping[str, object], as_json: bool, title: str, lines: Iterable[str], lead: str = ""
) -> None:
    """Print a result whose sentences stand below its tables, and among its keys in JSON."""
    emit(result if as_json else {key: value for key, value in result.items() if value is not lines}, as_json, title)
    if not as_json:
        from pipeline.system.terminal import echo

        for line in lines:
            echo(f"{lead}{line}")


def words(text: str | None) -> list[str] | None:
    """`a,b` as an option gives it."""
    return text.split(",") if text else None


def whole_numbers(option: str, text: str, example: str) -> list[int]:
    """`1,2` as an option gives it.

    Raises:
        InputError: anything but whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        cure = f"Cure: --{option} {example}"
        raise InputError(f"--{option} {text!r}: expected whole numbers with commas. {cure}") from None


def commands() -> typer.Typer:
    """An app whose commands join the top level."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
