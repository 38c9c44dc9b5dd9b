"""Operating: what a group needs to run this unattended on one machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import Json, commands, emit, emit_with_lines

app = commands()


@app.command()
def init(
    notify: Annotated[
        str | None, typer.Option(help="Address to tell of failures and missing workers (Slack, ...).")
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(help="When the smallest chain runs: a cron line in UTC, or off. As it is (03:00) if left out."),
    ] = None,
    bucket: Annotated[
        list[str] | None, typer.Option(help="A bucket to make at AWS_ENDPOINT_URL where it is missing; repeatable.")
    ] = None,
) -> None:
    """Make or renew what the Prefect server at PREFECT_API_URL needs: pool, limit, automations, deployments, canary."""
    import os
    import sys

    if bucket:
        from pipeline.data.sources.s3 import make_buckets

        make_buckets(bucket)
    more = ["--notify", notify] if notify else []
    more += ["--canary", canary] if canary is not None else []
    os.execv(sys.executable, [sys.executable, "-m", "flows.deploy", *more])


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


class Served(StrEnum):
    """The servers of a group."""

    mlflow = "mlflow"
    prefect = "prefect"


@app.command()
def serve(
    server: Annotated[Served, typer.Argument(help="mlflow or prefect.")],
    store: Annotated[Path, typer.Option(help="Folder for what it keeps.")] = Path("/store"),
    host: Annotated[str, typer.Option(help="Address that it listens on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; 5000 or 4200 if left out.")] = None,
    allowed_hosts: Annotated[
        str | None, typer.Option(help="MLflow: names it may be called by, with commas; Prefect: EVEREST_ALLOWED_HOSTS.")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="MLflow: where artifacts go, such as s3://mlflow; the folder if left out.")
    ] = None,
) -> None:
    """Be one of the two servers for a group, behind a login (EVEREST_PASSWORD), on EVEREST_DATABASE where it is set."""
    from pipeline.operations import serve

    if server is Served.prefect:
        serve.prefect(store, host, port or 4200)
    serve.mlflow(store, host, port or 5000, allowed_hosts, artifacts)


class MemberRole(StrEnum):
    """What a member of a group may do on its MLflow server."""

    reader = "reader"
    editor = "editor"
    none = "none"


@app.command()
def member(
    name: Annotated[str, typer.Argument(help="The user's name on MLflow's page.")],
    role: Annotated[MemberRole, typer.Option(help="What they may do; none: they leave.")] = MemberRole.reader,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only of this experiment; repeatable. All, and all models, if left out.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="Holds a new user's password; made if absent (.work/members/NAME).")
    ] = None,
) -> None:
    """Let a user read or edit what the MLflow server at MLFLOW_TRACKING_URI has; who has no role sees nothing."""
    import warnings

    # Of what MLflow's server uses itself; nobody here can do anything about it.
    warnings.filterwarnings("ignore", message="starlette", module="mlflow")
    from pipeline.system.terminal import echo
    from pipeline.tracking.store.members import Role, admit

    file = password_file or Path(".work/members") / Path(name).name
    echo(admit(name, Role(role), experiment or [], file))


@app.command(name="exec", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def with_secrets(context: typer.Context) -> None:
    """Run a command (`-- prefect deployment run ...`) with the secrets that files hold (NAME_FILE) as variables."""
    import os

    from pipeline.errors import InputError
    from pipeline.operations.serve import tool

    words = context.args
    if not words:
        raise InputError("no command. Cure: everest ops exec -- prefect deployment run experiment/canary")
    try:
        os.execvp(tool(words[0]), words)
    except OSError as error:
        raise InputError(f"{words[0]}: {error.strerror}. Cure: the name of a program.") from None


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
    from pipeline.operations.backup import databases_of, left_out

    root = Path.cwd()
    of = databases(root, database)
    made = make(root, to, of, artifacts)
    lines = left_out(root, of, artifacts)
    emit_with_lines(
        {"backup": str(made), **databases_of(made, of), "left_out": lines}, as_json, "Backup", lines, "warning: "
    )


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


@app.command()
def advisories(
    saved: Annotated[Path, typer.Argument(help="Advisories in OSV's format: JSON, a folder or a ZIP archive of it.")],
    lock: Annotated[Path, typer.Option(help="What pins the versions.")] = Path("requirements.lock"),
    as_json: Json = False,
) -> None:
    """Compare the locked versions with advisories that were saved (osv.dev: PyPI/all.zip); exit code 1 if one fits.

    Nothing is fetched: the answer is as old as the file.
    """
    from pipeline.operations.advisories import check

    findings, read = check(lock, saved)
    kinds = f"{read} {'advisory' if read == 1 else 'advisories'}"
    rows: list[dict[str, str]] = [finding.row() for finding in findings]
    emit(rows if rows or as_json else [{"finding": f"none of {kinds} names a locked version"}], as_json, "Advisories")
    if findings:
        raise typer.Exit(1)
