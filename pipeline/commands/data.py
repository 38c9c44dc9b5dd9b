"""Data without the chain: annotations, folders of videos, caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import Json, commands, emit

app = commands()
cache_app = typer.Typer(help="List, verify and clear caches.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


@app.command("annotations")
def annotations_of(
    benchmark: Annotated[str, typer.Argument(help="ucf101, hmdb51, k400, ssv2, oscc, or folder for your own.")],
    root: Annotated[
        Path, typer.Option(help="Folder of the annotation files; for your own: the videos' folder or their CSV.")
    ],
    as_json: Json = False,
) -> None:
    """Parse and check a benchmark's splits without any video."""
    from pipeline.data import annotations as parsers

    summary = parsers.summary(benchmark, root)
    shown = {name: value for name, value in summary.items() if as_json or name != "class_names"}
    emit(shown, as_json, f"Annotations of {benchmark}")


@app.command()
def ingest(
    folder: Annotated[Path, typer.Argument(help="Searched for videos, with its subfolders.")],
    as_json: Json = False,
) -> None:
    """Decode every video of a folder once; say which can be used and why others cannot."""
    from pipeline.data.ingest.ingest import command
    from pipeline.params import load_params

    params = load_params()
    emit(command(folder, params.ingest, params.compute.cluster), as_json, "Ingest")


@cache_app.command("ls")
def cache_ls(as_json: Json = False) -> None:
    """Every cache with its size and how it was made."""
    from pipeline.data.cache.admin import ls

    emit(ls(), as_json, "Caches")


@cache_app.command("verify")
def cache_verify(
    benchmark: Annotated[str | None, typer.Argument(help="All caches if left out.")] = None,
    repair: Annotated[bool, typer.Option(help="Make damaged shards again.")] = False,
    as_json: Json = False,
) -> None:
    """Compare every shard with its recorded checksum."""
    from pipeline.data.cache.admin import verify
    from pipeline.params import load_params

    emit(verify(benchmark, repair=repair, params=load_params() if repair else None), as_json, "Caches")


@cache_app.command("gc")
def cache_gc(
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False, as_json: Json = False
) -> None:
    """Remove shards that the current parameters do not need."""
    from pipeline.data.cache.admin import gc
    from pipeline.params import load_params

    emit(gc(load_params(), dry_run=dry_run), as_json, "Removed")
