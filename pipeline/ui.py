"""`everest ui`: MLflow's and Prefect's pages on loopback, until Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pipeline.errors import BusyError, EverestError
from pipeline.layout import WORK
from pipeline.operations.serve import PATIENT, tool
from pipeline.system.processes import follow_parent, on_stop
from pipeline.system.terminal import say

HOST = "127.0.0.1"
#: [s] the first start makes all tables.
START_SECONDS = 240


def serve(mlflow_port: int, prefect_port: int, database: str | None = None) -> None:
    """Start both servers, say where they are, and stop them with this process.

    Args:
        database: a PostgreSQL server for both, `postgresql://user:password@host`; files of SQLite if None.

    Raises:
        BusyError: a port is taken.
        InputError: another kind of database.
        EverestError: a server ended by itself; names its log. Or PostgreSQL does not answer.
    """
    for name, port in (("MLflow", mlflow_port), ("Prefect", prefect_port)):
        _refuse_taken(name, port)
    (WORK / "logs").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | stores(database)
    mlflow = [tool("mlflow"), "server", "--host", HOST, "--port", str(mlflow_port), *PATIENT]
    commands = {
        "MLflow": [*mlflow, "--artifacts-destination", "mlartifacts"] if database else mlflow,
        # Prefect's own command would answer to every web page that the user's browser has open.
        "Prefect": [sys.executable, "-m", "flows.server", "--host", HOST, "--port", str(prefect_port)],
    }
    on_stop(signal.default_int_handler)
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with _log(name).open("wb") as log:
                servers[name] = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=follow_parent(signal.SIGTERM),
                )
        for name, port in (("MLflow", mlflow_port), ("Prefect", prefect_port)):
            _wait(name, servers[name], port)
        page = f"http://{HOST}:{mlflow_port}"
        say(f"MLflow   {page}")
        for name, address in _views(page):
            say(f"         {name}, accuracy against cost: {address}")
        say(
            f"Prefect  http://{HOST}:{prefect_port}   (to use it: export PREFECT_API_URL=http://{HOST}:{prefect_port}/api)"
        )
        if database:  # no file that runs could write to by themselves
            say(f"         to track there: export MLFLOW_TRACKING_URI={page}")
        say("Ctrl-C stops both.")
        while all(server.poll() is None for server in servers.values()):
            time.sleep(1)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise EverestError(f"{ended}'s server ended by itself; its last words are in {_log(ended)}")
    except KeyboardInterrupt:
        say("stopping")
    finally:
        on_stop(signal.SIG_IGN)  # an impatient second Ctrl-C must not leave a server behind
        for server in servers.values():
            _end(server)


def stores(database: str | None) -> dict[str, str]:
    """The variables that name the databases of both servers."""
    if database is None:
        tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        # An address of a server is most likely that of the one which is started here.
        local = not tracking or tracking.startswith(("http://", "https://"))
        return {"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db" if local else tracking}
    from pipeline.operations.postgres import prepare

    return prepare(database)


def _views(page: str) -> list[tuple[str, str]]:
    """(experiment, address of its prepared view) of every experiment that has one; newest first."""
    from pipeline.tracking.views import TAG, address

    request = urllib.request.Request(
        f"{page}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 100, "order_by": ["last_update_time DESC"]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            experiments = json.load(answer).get("experiments", [])
    except (OSError, ValueError, http.client.HTTPException):  # the links are a convenience: the page itself is there
        return []
    return [
        (experiment["name"], address(page, experiment["experiment_id"]))
        for experiment in experiments
        if TAG in {tag["key"] for tag in experiment.get("tags", [])}
    ]


def _refuse_taken(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            option = f"--{name.lower()}-port {port + 1}"
            raise BusyError(
                f"port {port} for {name} is taken, perhaps by another `everest ui`. Cure: everest ui {option}"
            ) from None


def _wait(name: str, server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise EverestError(f"{name}'s server did not start; its last words are in {_log(name)}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.3)
    raise EverestError(f"{name}'s server did not answer within {START_SECONDS} s; see {_log(name)}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server and its workers: they share its session."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _log(name: str) -> Path:
    return WORK / "logs" / f"{name.lower()}-server.log"
