"""A deployment whose one stage counts instead of training: real server, worker, DVC, gate and signals, in seconds.

The stage `pretrain` takes a step each 0.1 s, saves its count when it is told to stop, and goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TRAIN = """
import os, signal, sys, time
from pathlib import Path
from pipeline.system.processes import die_with_parent
die_with_parent(signal.SIGINT)
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
steps, work = int(Path("steps").read_text()), Path(os.environ["EVEREST_WORK"]) / "pretrain"
work.mkdir(parents=True, exist_ok=True)
saved, note = work / "step", Path(".work/progress/pretrain")
note.parent.mkdir(parents=True, exist_ok=True)
step = int(saved.read_text()) if saved.exists() else 0
(work / "began").open("a").write(f"{step}\\n")
while step < steps and not stop:
    time.sleep(0.1)
    step += 1
    note.write_text(f"pretrain {step}/{steps}")
saved.write_text(str(step))
if stop:
    sys.exit(130)
Path("model").write_text("done")
"""
DVC = "stages:\n  pretrain:\n    cmd: python train.py\n    deps: [steps]\n    outs: [model]\n"
FLOW = """
from __future__ import annotations
import shutil
from pathlib import Path
from prefect import flow
from prefect.runtime import flow_run
from flows.chain.repro import workspace
from flows.chain.run import identity, run_stages, task_runner
from flows.chain.stages import Stage

@flow(name="toy", flow_run_name="toy: steps={steps}", task_runner=task_runner())
def toy(steps: int = 600) -> dict[str, str]:
    root = Path.cwd()
    folder = root / ".work" / "worktrees" / str(flow_run.id)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "dvc.yaml"):
        shutil.copyfile(root / name, folder / name)
    (folder / "steps").write_text(str(steps))
    shutil.copytree(root / ".dvc", folder / ".dvc", dirs_exist_ok=True)
    name = str(flow_run.id)
    where = workspace(folder, name, {"EVEREST_WORK": str(root / ".work"), **identity(name)}, root)
    where.environment["PYTHONPATH"] = CODE
    return run_stages([Stage("pretrain", trains=True)], None, where)
"""
PREFECT = """
name: toy
pull:
  - prefect.deployments.steps.set_working_directory: {directory: ROOT}
deployments:
  - {name: toy, entrypoint: "toyflow.py:toy", work_pool: {name: everest, job_variables: {stream_output: false}}}
"""


@dataclass
class Toy:
    """A project folder with its server, and what is asked of them."""

    root: Path
    code: Path
    port: int
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None

    # Processes

    def start(self, *command: str, log: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.root,
                env={**self.environment, **more},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_server(self, **more: str) -> None:
        self.server = self.start("-m", "flows.server", "--port", str(self.port), log="server.log", **more)
        server = self.server
        until(lambda: self.answers() or server.poll() is not None, 90, "the server answers")
        assert server.poll() is None, (self.root / "server.log").read_text()[-2000:]

    def stop_server(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.server is not None
        self.server.send_signal(how)
        self.server.wait(30)

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.start("-m", "flows.worker", log="worker.log")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    def end(self) -> None:
        for process in psutil.process_iter():
            try:
                ours = str(self.root) in process.environ().get("PREFECT_HOME", "")
            except psutil.Error:
                continue
            if ours:
                process.kill()
        for process in self.processes:
            process.wait(30)

    # What Prefect says

    def ask(self, path: str, query: dict[str, object] | None = None, method: str | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            data=None if query is None else json.dumps(query).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        for attempt in range(10):
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == 9:  # SQLite is locked; Prefect's own client asks again, too
                    raise
            time.sleep(0.5)
        raise AssertionError("unreachable")

    def answers(self) -> bool:
        try:
            return self.ask("health") is True
        except OSError:
            return False

    def submit(self, steps: int) -> str:
        # Not by the command, which takes seconds to import.
        deployment = self.ask("deployments/name/toy/toy")["id"]
        made = self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": {"steps": steps}})
        return str(made["id"])

    def cancel(self, run: str) -> None:
        self.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def crash(self, run: str, message: str) -> None:
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        self.ask(f"flow_runs/{run}/set_state", {"state": state, "force": True})

    def state(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state"]["name"])

    def lines(self, run: str) -> str:
        found = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in found)

    def slots(self) -> int:
        return int(self.ask("v2/concurrency_limits/gpu")["active_slots"])

    # What the training says

    def began(self) -> list[int]:
        """The step from which each start of the training went on."""
        path = self.root / ".work" / "pretrain" / "began"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def trains(self, run: str) -> bool:
        note = self.root / ".work" / "worktrees" / run / ".work" / "progress" / "pretrain"
        return note.exists() and self.state(run) == "Running"

    def flow_process(self, run: str) -> psutil.Process:
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("PREFECT__FLOW_RUN_ID") == run and "prefect.engine" in process.cmdline()
            except psutil.Error:
                continue
            if ours:
                return process
        raise AssertionError(f"no process runs {run}")

    def leftovers(self) -> list[str]:
        """Commands of this project's processes other than servers and workers."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = str(self.root) in process.environ().get("PREFECT_HOME", "")
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if ours and not any(word in line for word in ("flows.server", "flows.worker", "worker start")):
                found.append(line)
        return found


def until(done: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for it; the seconds that it took. The limit is one for a machine with a core free for it."""
    began = time.monotonic()
    while not done():
        limit = seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - began < limit, f"not within {limit:.0f} s: {what}"
        time.sleep(0.2)
    took = time.monotonic() - began
    sys.stderr.write(f"{what}: {took:.1f} s\n")
    return took


def make_toy(code: Path, root: Path) -> Toy:
    """A project folder that is ready for :meth:`Toy.start_server` and :func:`deploy`."""
    root.mkdir(parents=True)
    (root / "train.py").write_text(TRAIN)
    (root / "dvc.yaml").write_text(DVC)
    (root / "toyflow.py").write_text(FLOW.replace("CODE", repr(str(code))))
    (root / "prefect.yaml").write_text(PREFECT.replace("ROOT", str(root)))
    home = root / ".work" / "prefect"
    home.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{code}{os.pathsep}{root}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    toy = Toy(root, code, port, environment)
    toy.run(sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet")
    return toy


def deploy(toy: Toy) -> None:
    """Pool, limit and deployment."""
    toy.run("prefect", "work-pool", "create", "everest", "--type", "process", "--overwrite")
    toy.ask("v2/concurrency_limits/", {"name": "gpu", "limit": 1, "active": True})
    toy.run("prefect", "--no-prompt", "deploy", "--all")


def forget(toy: Toy) -> None:
    """Take away what earlier runs left, so that the next one counts from 0."""
    shutil.rmtree(toy.root / ".work" / "pretrain", ignore_errors=True)
    shutil.rmtree(toy.root / ".dvc" / "cache", ignore_errors=True)
