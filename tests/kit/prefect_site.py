"""A project folder with a real Prefect server and worker on loopback: how they are started, asked and killed."""

from __future__ import annotations

import json
import os
import signal
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


@dataclass
class Site:
    """A project folder with its server, and what is asked of them."""

    root: Path
    code: Path
    port: int
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None

    # Processes

    def start(self, *command: str, log: str, folder: Path | None = None, **more: str) -> subprocess.Popen[bytes]:
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder or self.root,
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
        for child in self.processes:
            child.wait(30)

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

    def create(self, deployment: str, parameters: dict[str, object]) -> str:
        """Submit a run of a deployment (`flow/name`); its id."""
        # Not by the command, which takes seconds to import.
        known = self.ask(f"deployments/name/{deployment}")["id"]
        return str(self.ask(f"deployments/{known}/create_flow_run", {"parameters": parameters})["id"])

    def cancel(self, run: str) -> None:
        self.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def crash(self, run: str, message: str) -> None:
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        self.ask(f"flow_runs/{run}/set_state", {"state": state, "force": True})

    def state(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state"]["name"])

    def message(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state"]["message"])

    def lines(self, run: str) -> str:
        found = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in found)

    def slots(self) -> int:
        return int(self.ask("v2/concurrency_limits/gpu")["active_slots"])

    def flow_process(self, run: str) -> psutil.Process:
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("PREFECT__FLOW_RUN_ID") == run and "prefect.engine" in process.cmdline()
            except psutil.Error:
                continue
            if ours:
                return process
        raise LookupError(f"no process runs {run}")

    def has_process(self, run: str) -> bool:
        try:
            return self.flow_process(run).is_running()
        except LookupError:
            return False

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

    def going(self) -> list[str]:
        """Runs that have not ended."""
        states = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}
        return [run["id"] for run in self.ask("flow_runs/filter", {"flow_runs": {"state": states}})]

    def worktrees(self) -> list[str]:
        """Folders of flow runs, but those that crashed ones keep for a retry (until `everest ops gc`)."""
        folders = (folder.name for folder in (self.root / ".work" / "worktrees").glob("*"))
        return [name for name in folders if self.state(name) != "Crashed"]

    def held_locks(self) -> list[str]:
        """`file, process` of every lock that somebody holds below the project."""
        by_inode = {
            path.stat().st_ino: path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()
        }
        held = []
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.replace(" -> ", " ").split()
            path = by_inode.get(int(words[5].rpartition(":")[2])) if len(words) >= 9 else None
            if path is not None:
                held.append(f"{path.relative_to(self.root)}, process {words[4]}")
        return held

    def checks(self) -> dict[str, Callable[[], object]]:
        """What must be empty or 0 when all runs have ended."""
        return {
            "processes": self.leftovers,
            "slots taken": self.slots,
            "runs that have not ended": self.going,
            "worktrees": self.worktrees,
            "locks held": self.held_locks,
        }


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
