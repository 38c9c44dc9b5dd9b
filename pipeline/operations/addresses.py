"""Where the databases of MLflow and Prefect are: files of SQLite, or two databases on one PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import InputError
from pipeline.operations.databases import users
from pipeline.preflight import orchestrator
from pipeline.system.redact import redact

#: The PostgreSQL server of `everest ui --database`, where no option names it.
DATABASE = "EVEREST_DATABASE"
MLFLOW, PREFECT = "everest_mlflow", "everest_prefect"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: [s] for a server on loopback.
ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Databases:
    """The addresses as `sqlite:///FILE` or `postgresql://...`, logins and all."""

    mlflow: str
    prefect: str


def on_postgres(server: str) -> Databases:
    """The two databases on the server `postgresql://user:password@host:port`.

    Raises:
        InputError: another kind of address, or one that names a database.
    """
    parts = urlsplit(server)
    if parts.scheme not in ("postgresql", "postgres") or parts.path not in ("", "/"):
        raise InputError(
            f"--database {redact(server)}: expected a PostgreSQL server without a database, whose names are ours "
            f"({MLFLOW}, {PREFECT}). Cure: --database postgresql://user:password@127.0.0.1:5432"
        )
    plain = [urlunsplit(("postgresql", parts.netloc, f"/{name}", parts.query, "")) for name in (MLFLOW, PREFECT)]
    return Databases(*plain)


def databases(root: Path, server: str | None = None) -> Databases:
    """The databases of this project.

    Args:
        server: a PostgreSQL server; that of EVEREST_DATABASE, or the files of SQLite, if None.

    Raises:
        InputError: MLFLOW_TRACKING_URI or PREFECT_API_URL is a server, and the file here is not that one's database.
    """
    if given := server or os.environ.get(DATABASE):
        return on_postgres(given)
    chosen = orchestrator.setting("PREFECT_API_DATABASE_CONNECTION_URL", "server", "database", "connection_url")
    return Databases(mlflow(root), chosen.value if chosen else _prefect())


def mlflow(root: Path) -> str:
    """MLflow's database alone, as in `databases`."""
    if given := os.environ.get(DATABASE):
        return on_postgres(given).mlflow
    tracking, file = os.environ.get("MLFLOW_TRACKING_URI", ""), root / "mlflow.db"
    if tracking.startswith("http") and not (file.exists() and _serves(tracking, file)):
        raise InputError(
            f"MLFLOW_TRACKING_URI = {redact(tracking)} is a server, which does not tell where its database is; it does "
            f"not have {file} open. Cure: run this where it is, with MLFLOW_TRACKING_URI=sqlite:///FILE or "
            f"{DATABASE}=postgresql://..."
        )
    return tracking if tracking and not tracking.startswith("http") else f"sqlite:///{file}"


def _prefect() -> str:
    file, server = orchestrator.home() / "prefect.db", orchestrator.address()
    if server and file.exists() and not _serves(server.value, file):
        raise InputError(
            f"PREFECT_API_URL = {redact(server.value)} is a server, which does not tell where its database is; it does "
            f"not have {file} open. Cure: run this where it is, with PREFECT_API_DATABASE_CONNECTION_URL=..., or "
            f"{server.cure}: that file is meant then."
        )
    return f"sqlite:///{file}"


def _serves(address: str, file: Path) -> bool:
    """Whether a server has this file as its database: it listens here and has it open, or it is stopped."""
    import psutil

    parts = urlsplit(address)
    if parts.hostname not in LOOPBACK:
        return False
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_SECONDS).close()
    except OSError:
        return True
    for process in users(file):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            # The children of MLflow's server listen for it.
            for one in (process, *process.children(recursive=True)):
                for connection in one.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return True
    return False
