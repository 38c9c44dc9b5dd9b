"""One server of a group, behind a login, in a container or by itself: `everest ops serve mlflow|prefect`.

The login is the user `everest` with EVEREST_PASSWORD; databases are on the PostgreSQL server of EVEREST_DATABASE, or
files in the server's folder. What becomes the server's process gets both by variables and private files: no list of
processes shows them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path

from pipeline.errors import InputError
from pipeline.operations.addresses import DATABASE
from pipeline.operations.postgres import prepare

USER, PASSWORD = "everest", "EVEREST_PASSWORD"
#: On a busy machine MLflow's processes take longer to start than the 5 s after which they would be killed as dead.
PATIENT = ("--workers", "2", "--uvicorn-opts", "--timeout-worker-healthcheck 120")
#: Fewer characters are refused by MLflow.
SHORTEST = 12


def mlflow(folder: Path, host: str, port: int, hosts: str | None, artifacts: str | None) -> None:
    """Become MLflow's server; whoever has no permission for an experiment sees nothing of it.

    Args:
        folder: for what it keeps: the key that signs sessions, its login's settings, without PostgreSQL its databases.
        hosts: names by which it may be addressed, with commas; loopback's if None.
        artifacts: where it puts artifacts (`s3://bucket`); in the folder if None.

    Raises:
        InputError: no password, or a short one.
        EverestError: PostgreSQL does not answer.
    """
    password = _password()
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    database = os.environ.pop(DATABASE, None)
    if database:
        # Its server keeps logins beside the runs: one database to back up.
        store = logins = prepare(database)["MLFLOW_BACKEND_STORE_URI"]
    else:
        store, logins = f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/login.db"
    key, settings = folder / "session-key", folder / "login.ini"
    if not key.exists() or not key.read_text():
        key.write_text(secrets.token_hex(32))
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = {logins.replace('%', '%%')}\n"
        "authorization_function = pipeline.tracking.store.admission:authenticate\n"
    )
    os.environ.pop(PASSWORD)
    os.environ |= {
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": key.read_text().strip(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [tool("mlflow"), "server", "--app-name", "basic-auth", "--host", host, "--port", str(port), *PATIENT]
    command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
    command += ["--allowed-hosts", hosts] if hosts else []
    os.execv(command[0], command)


def prefect(folder: Path, host: str, port: int) -> None:
    """Become Prefect's server, its page among what it serves.

    Args:
        folder: for what it keeps: leases, its page's files, without PostgreSQL its database.

    Raises:
        InputError: no password, or a short one.
        EverestError: PostgreSQL does not answer.
    """
    password = _password()
    folder.mkdir(parents=True, exist_ok=True)
    database = os.environ.pop(DATABASE, None)
    if database:
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = prepare(database)["PREFECT_API_DATABASE_CONNECTION_URL"]
    os.environ.pop(PASSWORD)
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = f"{USER}:{password}"
    os.environ["PREFECT_HOME"] = str(folder)
    # Beside the package, where it lies otherwise, this user may not write.
    os.environ.setdefault("PREFECT_UI_STATIC_DIRECTORY", str(folder / "page"))
    os.execv(sys.executable, [sys.executable, "-m", "flows.server", "--host", host, "--port", str(port)])


def _password() -> str:
    password = os.environ.get(PASSWORD, "")
    if len(password) < SHORTEST:
        raise InputError(
            f"{PASSWORD} has {len(password)} characters: expected {SHORTEST} or more. Cure: {PASSWORD}_FILE names a "
            "file that holds them (docker/prepare.sh makes one)."
        )
    return password


def tool(name: str) -> str:
    """The program of this environment, or of PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else str(shutil.which(name) or name)
