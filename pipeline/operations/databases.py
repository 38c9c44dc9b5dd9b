"""Copies of a server's database, whole although others write to it: SQLite by its own backup, PostgreSQL by pg_dump."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.errors import EverestError, InputError
from pipeline.system.files import atomic_path
from pipeline.system.redact import redact

if TYPE_CHECKING:
    import psutil

#: [s] that a copy may take.
SECONDS = 3600.0
#: Where MLflow's runs put their artifacts, and the tables that say so.
_TABLES = ("experiments", "runs")
_PLACES: LiteralString = (
    "select distinct artifact_location from experiments join runs on runs.experiment_id = experiments.experiment_id"
)
#: What a newer program has added goes, too: its tables refer to older ones, which then cannot be dropped by themselves.
_EMPTY = """
set client_min_messages = warning;
do $$ begin
    drop schema public cascade;
    create schema public;
    comment on schema public is 'standard public schema';
    grant usage on schema public to public;
exception when insufficient_privilege then  -- up to PostgreSQL 14 it belongs to the superuser
    drop owned by current_user;
end $$
"""


def is_postgres(address: str) -> bool:
    return address.startswith(("postgresql:", "postgresql+", "postgres:"))


def copy(address: str, folder: Path, name: str) -> Path:
    """Write a copy of a database into `folder`; its file is `<name>.db` or `<name>.dump`.

    Args:
        address: `sqlite:///FILE`, `sqlite+aiosqlite:///FILE` or `postgresql://...`.

    Raises:
        EverestError: the database cannot be read.
        InputError: an address of another kind.
    """
    if is_postgres(address):
        target = folder / f"{name}.dump"
        _run("pg_dump", address, "--format=custom", f"--file={target}")
        return target
    target = folder / f"{name}.db"
    source = sqlite_path(address)
    if not source.is_file():
        raise EverestError(f"there is no database {source}. Cure: run in the project's root, or mend the address.")
    with atomic_path(target) as new, contextlib.closing(sqlite3.connect(new)) as to:
        try:
            with contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as of:
                of.backup(to)
            (verdict,) = to.execute("PRAGMA quick_check").fetchone()
        except sqlite3.DatabaseError as error:
            raise EverestError(f"{source} cannot be copied: {error}. Cure: restore an earlier backup.") from error
        if verdict != "ok":
            raise EverestError(f"the copy of {source} is damaged: {verdict}. Cure: restore an earlier backup.")
    return target


def put_back(copied: Path, address: str) -> None:
    """Replace a database by a copy of it.

    Raises:
        EverestError: it cannot be written, or is in use; it is as it was then.
    """
    refuse_other_kind(copied, address)
    if is_postgres(address):
        refuse_sessions(address)
        _replace(address, copied)
        return
    target = sqlite_path(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    refuse_in_use(target)
    with atomic_path(target) as new:
        shutil.copyfile(copied, new)
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)


def refuse_other_kind(copied: Path, address: str) -> None:
    """Raises InputError where a copy is not of the kind of database that is to be replaced."""
    if is_postgres(address):
        if copied.suffix != ".dump":
            raise InputError(f"{copied} is no copy of PostgreSQL. Cure: restore to sqlite:///FILE.")
    elif copied.suffix != ".db":
        raise InputError(f"{copied} is a copy of PostgreSQL. Cure: restore to postgresql://...")


def users(file: Path) -> Iterator[psutil.Process]:
    """The processes that have a file open, as far as this user may look."""
    import psutil

    place = str(file.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(each.path == place for each in process.open_files()):
                yield process


def refuse_in_use(file: Path) -> None:
    """Raises EverestError where a process has a SQLite file open: a server would go on with the old one."""
    import psutil

    for process in users(file):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if process.pid != os.getpid():
                raise EverestError(
                    f"{file} is in use by process {process.pid} ({process.name()}). Cure: stop that server first."
                )


def refuse_sessions(address: str) -> None:
    """Raises EverestError where somebody is connected to a PostgreSQL database, or it does not answer."""
    (sessions,) = _ask(
        address,
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and pid <> pg_backend_pid() and backend_type = 'client backend'",
    )
    if sessions:
        raise EverestError(
            f"{redact(address)} is in use: {sessions} connection{'' if sessions == 1 else 's'}. "
            "Cure: stop the servers and whoever reads there first."
        )


def exists(address: str) -> bool:
    """Whether there is a database that restoring would replace: a file, or one of PostgreSQL with a table.

    Raises:
        EverestError: PostgreSQL does not answer, or has no such database, which restoring does not make.
    """
    if is_postgres(address):
        return bool(_ask(address, "select tablename from pg_tables where schemaname = 'public'"))
    return sqlite_path(address).exists()


def artifact_places(address: str) -> list[str]:
    """Where the artifacts of MLflow's runs lie, as its database has it; [] where that has no run.

    Raises:
        EverestError: PostgreSQL does not answer.
    """
    if is_postgres(address):
        tables = _ask(address, "select tablename from pg_tables where schemaname = 'public'")
        return sorted(map(str, _ask(address, _PLACES))) if set(_TABLES) <= set(tables) else []
    with contextlib.closing(sqlite3.connect(f"{sqlite_path(address).absolute().as_uri()}?mode=ro", uri=True)) as of:
        tables = [name for (name,) in of.execute("select name from sqlite_master")]
        return sorted(place for (place,) in of.execute(_PLACES)) if set(_TABLES) <= set(tables) else []


def _ask(address: str, query: LiteralString) -> list[object]:
    """A PostgreSQL database's answer, a value for each row."""
    import psycopg

    try:
        # Prefect's and MLflow's addresses name a driver of SQLAlchemy, which PostgreSQL's own library does not know.
        plain = re.sub(r"^postgresql\+\w+:", "postgresql:", address)
        with psycopg.connect(plain, connect_timeout=10) as connection:
            return [row[0] for row in connection.execute(query)]
    except psycopg.Error as error:
        raise EverestError(
            f"{redact(address)}: {redact(str(error).strip())}. Cure: start PostgreSQL, or mend the address."
        ) from None


def sqlite_path(address: str) -> Path:
    """The file of `sqlite:///FILE`.

    Raises:
        InputError: an address of another kind.
    """
    kind, separator, path = address.partition(":///")
    if not separator or kind.partition("+")[0] != "sqlite":
        raise InputError(
            f"{redact(address)} is no database that can be copied. Cure: sqlite:///FILE or postgresql://..."
        )
    return Path(path.partition("?")[0])


def _run(program: str, address: str, *words: str) -> None:
    """Run PostgreSQL's own program on a database."""
    done = subprocess.run(
        [*_program(program), f"--dbname={_plain(address)}", *words],
        env=_environment(address),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise _failed(program, done.stderr)


def _replace(address: str, copied: Path) -> None:
    """Replace all of a PostgreSQL database in one transaction: what fails halfway has changed nothing."""
    script = [*_program("pg_restore"), "--no-owner", "--file=-", str(copied)]
    words = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command=begin", f"--command={_EMPTY}", "--file=-"]
    with subprocess.Popen(
        [*_program("psql"), f"--dbname={_plain(address)}", *words],
        env=_environment(address),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as psql:
        made = subprocess.run(script, stdout=psql.stdin, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
        # Where the script ends without a commit, all of it is taken back: half of one is never kept.
        _, said = psql.communicate(b"" if made.returncode else b"\ncommit;\n", timeout=SECONDS)
    if psql.returncode:
        raise _failed("psql", said)
    if made.returncode:
        raise _failed("pg_restore", made.stderr)


def _program(name: str) -> list[str]:
    if not shutil.which(name):
        raise EverestError(f"{name} is not installed. Cure: apt-get install postgresql-client")
    return [name]


def _plain(address: str) -> str:
    """An address for PostgreSQL's own programs; the password goes by the environment: no list of processes shows it."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    login = f"{parts.username}@" if parts.username else ""
    return urlunsplit(("postgresql", login + host, parts.path, parts.query, ""))


def _environment(address: str) -> dict[str, str]:
    password = urlsplit(address).password
    return {**os.environ, "PGPASSWORD": unquote(password)} if password else dict(os.environ)


def _failed(program: str, said: bytes) -> EverestError:
    words = said.decode(errors="replace").strip()[-500:]
    return EverestError(redact(f"{program} failed: {words}. Cure: see what it names."))
