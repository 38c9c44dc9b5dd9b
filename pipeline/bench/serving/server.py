"""MLflow's server as a child of this process: started, asked, its processor time, ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil

from pipeline.errors import EverestError

START_SECONDS = 300


@contextlib.contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server of this model, and its process; ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", str(folder), "--env-manager", "local", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env=os.environ | environment | {"PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server, log.fileno())
            yield address, psutil.Process(server.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: int) -> None:
    due = time.monotonic() + START_SECONDS
    while time.monotonic() < due:
        try:
            with urlopen(f"{address}/ping", timeout=5):
                return
        except (URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(0.3)
    complaint = os.pread(log, 1 << 20, 0).decode(errors="replace").strip()[-800:]
    raise EverestError(f"MLflow's server does not answer: {complaint} Cure: see whether `mlflow models serve` starts.")


def post(address: str, content: dict[str, list[dict[str, str]]]) -> None:
    request = Request(address, json.dumps(content).encode(), {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=120) as answer:
            answer.read()
    except HTTPError as error:
        said = error.read().decode(errors="replace")[:400]
        raise EverestError(
            f"the server answers {error.code}: {said} Cure: leave out the videos that it refuses."
        ) from None


def processor(process: psutil.Process) -> float:
    """[s] of processor time that a process and its children have taken."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total
