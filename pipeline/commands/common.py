"""What all commands share: the --json switch and how a result is printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def emit(value: Any, as_json: bool, title: str | None = None) -> None:
    """Print a result on stdout: a JSON document, or tables made for reading."""
    if as_json:
        from pipeline.system.text import storable

        typer.echo(json.dumps(storable(value), indent=2, default=str))
        return
    from pipeline.system.terminal import show

    show(value, title)


def commands() -> typer.Typer:
    """An app whose commands join the top level."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
