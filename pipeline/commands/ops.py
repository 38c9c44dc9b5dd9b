"""Operating: what a group needs to run this unattended on one machine."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.common import commands

app = commands()


@app.command()
def worker(
    pool: Annotated[str, typer.Option(help="The work pool whose runs it takes.")] = "everest",
    limit: Annotated[int | None, typer.Option(min=1, help="Runs at once; all that are submitted if left out.")] = None,
    grace: Annotated[float, typer.Option(min=1, help="Seconds for runs to save and end when it is stopped.")] = 90,
) -> None:
    """Run what is submitted to Prefect; a stop (SIGTERM, Ctrl-C) saves it, and the next worker goes on with it."""
    import os
    import sys

    # In this process's place: whoever stops it by its number stops the worker itself.
    more = ["--limit", str(limit)] if limit else []
    os.execv(sys.executable, [sys.executable, "-m", "flows.worker", "--pool", pool, "--grace", str(grace), *more])
