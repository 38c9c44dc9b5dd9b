"""Operating: what a group needs to run this unattended on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import Json, commands, emit

app = commands()


@app.command()
def init(
    notify: Annotated[
        str | None, typer.Option(help="Address to tell of failures and missing workers (Slack, ...).")
    ] = None,
    canary: Annotated[
        str, typer.Option(help="When the smallest chain runs: a cron line in UTC, or off.")
    ] = "0 3 * * *",
) -> None:
    """Make or renew what the Prefect server at PREFECT_API_URL needs: pool, limit, automations, deployments, canary."""
    import os
    import sys

    more = ["--notify", notify] if notify else []
    os.execv(sys.executable, [sys.executable, "-m", "flows.deploy", "--canary", canary, *more])


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


@app.command()
def status(as_json: Json = False) -> None:
    """Say who runs, waits and holds what; disks, servers, versions, the last canary, and what to do next."""
    from pipeline.operations.overview import overview
    from pipeline.operations.words import tables
    from pipeline.system.terminal import echo

    view = overview(Path.cwd())
    if as_json:
        return emit(view.as_dict(), as_json)
    for title, rows in tables(view):
        emit(rows, as_json, title)
    echo("Next:")
    for line in view.next or ["nothing: all is as it should be"]:
        echo(f"- {line}")
    return None


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; touch nothing.")] = False,
    worktrees: Annotated[float, typer.Option(min=0, help="Days after which an ended run's worktree goes.")] = 7,
    work: Annotated[float, typer.Option(min=0, help="Days that unfinished work, with its checkpoints, may rest.")] = 30,
    caches: Annotated[float, typer.Option(min=0, help="Days that a cache no recipe names may rest.")] = 30,
    history: Annotated[float, typer.Option(min=0, help="Days that Prefect keeps ended runs.")] = 90,
    deleted: Annotated[float, typer.Option(min=0, help="Days that MLflow keeps deleted runs.")] = 30,
    dvc: Annotated[bool, typer.Option("--dvc", help="What nothing names in DVC's cache, too.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what nobody needs any more, by age; never what a run, a process or a lock uses."""
    from pipeline.operations.garbage import Policy, collect, remove
    from pipeline.operations.server import Server

    policy = Policy(worktrees, work, caches, history, deleted, dvc)
    items = collect(Path.cwd(), policy, Server.found())
    if not dry_run:
        items = remove(items)
    rows = [item.row() for item in items]
    emit(rows or [{"what": "nothing is old enough"}], as_json, "Would go" if dry_run else "Gone")


Database = Annotated[
    str | None, typer.Option(help="PostgreSQL's server (postgresql://user@host); EVEREST_DATABASE if left out.")
]


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(help="Folder in which the backup, a folder by its time, is made.")],
    database: Database = None,
    artifacts: Annotated[bool, typer.Option(help="MLflow's artifacts (registered models), reports, records.")] = True,
    as_json: Json = False,
) -> None:
    """Copy MLflow's and Prefect's databases, registered models and parameters, while everything goes on."""
    from pipeline.operations.addresses import databases
    from pipeline.operations.backup import backup as make

    root = Path.cwd()
    emit({"backup": str(make(root, to, databases(root, database), artifacts))}, as_json, "Backup")


@app.command()
def restore(
    backup: Annotated[Path, typer.Argument(help="A folder that `everest ops backup` made.")],
    database: Database = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup back, every byte checked; servers must be stopped."""
    from pipeline.operations.addresses import databases
    from pipeline.operations.backup import restore as put_back

    root = Path.cwd()
    lines = put_back(backup, root, databases(root, database), force)
    emit([{"done": line} for line in lines], as_json, "Restored")
