"""The two databases on a PostgreSQL server, made where they are missing, and how each program is told of them."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import EverestError
from pipeline.operations.addresses import MLFLOW, PREFECT, on_postgres
from pipeline.system.redact import redact


def prepare(server: str) -> dict[str, str]:
    """Make the databases; returns the variables by which MLflow's and Prefect's servers find them.

    By variables rather than options: a list of processes shows options, passwords and all.

    Args:
        server: `postgresql://user:password@host:port`; the user must be allowed to make databases, the first time.

    Raises:
        InputError: another kind of address.
        EverestError: the server does not answer, or refuses.
    """
    import psycopg
    from psycopg import sql

    databases = on_postgres(server)
    parts = urlsplit(server)
    try:
        with psycopg.connect(
            urlunsplit(("postgresql", parts.netloc, "/postgres", parts.query, "")), autocommit=True, connect_timeout=10
        ) as connection:
            for name in (MLFLOW, PREFECT):
                if not connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
                    # Both servers start at once, and the other one may have just made it.
                    with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise EverestError(
            f"PostgreSQL at {redact(server)}: {redact(str(error).strip())}. Cure: start it, mend the address, or let "
            f"this user make databases (or make {MLFLOW} and {PREFECT} for it)."
        ) from None
    return {
        "MLFLOW_BACKEND_STORE_URI": with_driver(databases.mlflow, "psycopg"),
        "PREFECT_API_DATABASE_CONNECTION_URL": with_driver(databases.prefect, "asyncpg"),
    }


def with_driver(address: str, name: str) -> str:
    """An address for SQLAlchemy, which knows PostgreSQL by the name of a driver; any other one as it is."""
    return address.replace("postgresql://", f"postgresql+{name}://", 1)
