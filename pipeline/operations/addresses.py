"""Where the databases of MLflow and Prefect are: files of SQLite, or two databases on one PostgreSQL server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import InputError
from pipeline.preflight import orchestrator
from pipeline.system.redact import redact

#: The PostgreSQL server of `everest ui --database`, where no option names it.
DATABASE = "EVEREST_DATABASE"
MLFLOW, PREFECT = "everest_mlflow", "everest_prefect"


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
        InputError: MLFLOW_TRACKING_URI is a server, which does not tell where its database is.
    """
    if given := server or os.environ.get(DATABASE):
        return on_postgres(given)
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking or (tracking.startswith("http") and (root / "mlflow.db").exists()):
        tracking = f"sqlite:///{root / 'mlflow.db'}"
    if tracking.startswith("http"):
        raise InputError(
            f"MLFLOW_TRACKING_URI = {redact(tracking)} is a server, which does not tell where its database is. "
            "Cure: run this where it is, with MLFLOW_TRACKING_URI=sqlite:///FILE or --database postgresql://..."
        )
    chosen = orchestrator.setting("PREFECT_API_DATABASE_CONNECTION_URL", "server", "database", "connection_url")
    return Databases(tracking, chosen.value if chosen else f"sqlite:///{orchestrator.home() / 'prefect.db'}")
