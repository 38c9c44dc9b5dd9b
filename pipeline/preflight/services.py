"""What stands beside the project: Prefect's server and folder, MLflow's store, DVC's locks."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import parted
from pipeline.preflight import orchestrator
from pipeline.preflight.places import refused, unwritable
from pipeline.preflight.problem import Problem, Scope
from pipeline.system import dvc_locks

DEFAULT_STORE = "sqlite:///mlflow.db"


def prefect(_: Scope) -> Iterator[Problem]:
    """The server that flows talk to, or the folder of the embedded one."""
    yield from _sentence("prefect", orchestrator.fault())


def dvc(_: Scope) -> Iterator[Problem]:
    """A lock of DVC's that a crash left behind."""
    yield from _sentence("dvc", dvc_locks.stale())


def mlflow(_: Scope) -> Iterator[Problem]:
    """A store that cannot take the records now: they wait on disk, so this stops nothing."""
    warning = mlflow_warning()
    if warning:
        yield warning


def mlflow_warning() -> Problem | None:
    """The one thing that is wrong with MLflow's store; None where nothing is."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)
    later = "the records of this run wait in .work/runs, and `everest sync` sends them"
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        cure = f"http://HOST:PORT or sqlite:///FILE; {later}."
        return Problem("MLFLOW_TRACKING_URI", f"is no address ({error})", cure, "warning")
    if parts.scheme in ("http", "https"):
        why = refused(parts.hostname or "localhost", port)
        if why:
            address = f"{parts.hostname}:{port}"
            cure = f"start the server, or unset MLFLOW_TRACKING_URI; {later}."
            return Problem("MLFLOW_TRACKING_URI", f"= {address} does not answer ({why})", cure, "warning")
    elif parts.scheme == "sqlite":
        path = Path(uri.partition("sqlite:///")[2])
        why = _foreign_schema(path) if path.exists() else unwritable(path.parent)
        if why:
            return Problem("mlflow", f"cannot write to {path}: {why}", f"mend that; {later}.", "warning")
    return None


def _sentence(key: str, text: str | None) -> Iterator[Problem]:
    if text:
        message, cure = parted(text)
        yield Problem(key, f": {message}", cure, "failure")


def _foreign_schema(path: Path) -> str | None:
    """Why the installed MLflow would not open a database; its migrations are files, so it need not be imported."""
    try:
        with sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True, timeout=1) as store:
            tables = {row[0] for row in store.execute("select name from sqlite_master where type = 'table'")}
            if not tables:
                return None
            if "alembic_version" not in tables:
                return "it is a database of something else. Set MLFLOW_TRACKING_URI to another file"
            revision = store.execute("select version_num from alembic_version").fetchone()[0]
    except sqlite3.Error as error:
        return None if "locked" in str(error) else f"{error}"
    known, newest = _migrations()
    if not newest or revision == newest:
        return None
    if revision in known:
        return f"an older MLflow made it. `mlflow db upgrade sqlite:///{path}` brings it up to date (keep a copy)"
    return "a newer MLflow made it. `make install` brings the locked version; a store of that version is needed"


def _migrations() -> tuple[set[str], str | None]:
    """(every revision, the newest) of the installed MLflow's schema."""
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        return set(), None
    texts = [
        path.read_text(encoding="utf-8")
        for path in (Path(package.origin).parent / "store" / "db_migrations" / "versions").glob("*.py")
    ]
    known = {match[1] for text in texts if (match := re.search(r"^revision\s*=\s*['\"](\w+)['\"]", text, re.M))}
    before = {match[1] for text in texts if (match := re.search(r"^down_revision\s*=\s*['\"](\w+)['\"]", text, re.M))}
    last = known - before
    return known, last.pop() if len(last) == 1 else None
