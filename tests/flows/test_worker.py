"""The worker's own part: which processes its stop reaches, and that it outlasts its server's absence."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
from prefect.workers import base

from flows import worker
from flows.chain.orders import PROCESS_RUN
from pipeline.distributed.heartbeat import lives
from pipeline.operations.server import Server

RUN = str(uuid4())
#: A run's process as Prefect starts it; below it a stage, which has the run's variables too.
FLOW = """
import pathlib, signal, subprocess, sys, time
place = pathlib.Path(sys.argv[2])
def save(*_):
    place.with_suffix(".saved").write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
stage = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", "dvc"])
place.write_text(str(stage.pid))
time.sleep(30)
"""
#: Prefect's worker: the first one has a run, later ones have none.
PREFECTS = """
import os, pathlib, subprocess, sys, time
place = pathlib.Path(sys.argv[1])
if not place.exists():
    command = [sys.executable, "-c", os.environ["FLOW"], "prefect.engine", str(place)]
    subprocess.Popen(command, env={**os.environ, os.environ["NAME"]: os.environ["RUN"]}, start_new_session=True)
time.sleep(30)
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the flow of the first worker notes its stage; all that was started ends with the test."""
    for name, value in (("FLOW", FLOW), ("NAME", PROCESS_RUN), ("RUN", RUN), ("OF_TEST", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Server, "found", lambda: None)
    monkeypatch.setattr(worker, "settle_stopped", lambda run: None)
    yield tmp_path / "stage"
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("OF_TEST") == str(tmp_path):
                process.kill()
        except psutil.Error:
            continue


def wait_for(path: Path) -> None:
    wait_until(lambda: path.exists() and path.read_text())


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_stop_saves_the_run_whose_own_prefects_worker_was_killed(started: Path) -> None:
    asked: list[int] = []

    def kill_the_first_and_stop_the_next() -> None:
        wait_for(started)
        flow = next(iter(worker._runs()))
        first = psutil.Process(flow.ppid())
        first.kill()
        while lives(first.pid) or flow.ppid() == first.pid:
            time.sleep(0.02)
        asked.append(15)

    other = threading.Thread(target=kill_the_first_and_stop_the_next)
    other.start()
    code = worker._serve([sys.executable, "-c", PREFECTS, str(started)], "everest", 20, asked)
    other.join()
    assert code == 0
    assert started.with_suffix(".saved").read_text() == "saved"


def start(program: str, **more: str) -> subprocess.Popen[bytes]:
    variables = worker.environment() | {PROCESS_RUN: RUN, **more}
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", program], env=variables)


def test_what_a_killed_flow_has_left_saves_undisturbed_and_a_living_workers_run_goes_on(started: Path) -> None:
    other = start(worker._MODULE, **{PROCESS_RUN: ""})
    ours = start("prefect.engine")
    start("dvc")
    start("prefect.engine", **{worker.WORKER: f"another {other.pid} everest"})
    start("prefect.server", **{PROCESS_RUN: ""})
    wait_until(worker._runs)
    assert {process.pid: str(run) for process, run in worker._runs().items()} == {ours.pid: RUN}


def test_a_stop_reaches_what_a_killed_worker_of_its_pool_and_checkout_has_left(started: Path) -> None:
    killed = start(worker._MODULE, **{PROCESS_RUN: ""})
    killed.kill()  # and not waited for: a worker's number stays while nobody has
    left = start("prefect.engine", **{worker.WORKER: f"killed {killed.pid} everest"})
    start("prefect.engine", **{worker.WORKER: f"killed {killed.pid} everest-cpu"})
    start("prefect.engine", **{worker.WORKER: f"killed {killed.pid} everest", worker.CHECKOUT: "/elsewhere"})
    wait_until(worker._runs)
    assert [process.pid for process in worker._runs()] == [left.pid]
    assert not worker._runs("everest-gpu")


def test_a_stop_finds_its_runs_after_the_machines_clock_was_put_forward(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's moment of the boot, from which the start of a process is reckoned, moves with the clock."""
    begun = psutil.boot_time()
    run = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(30)", "prefect.engine"],
        env=worker.environment() | {PROCESS_RUN: RUN},
    )
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: begun + 3600)
    assert psutil.Process(run.pid).create_time() > time.time() + 3000
    wait_until(worker._runs)
    assert [process.pid for process in worker._runs()] == [run.pid]


def test_a_loop_of_prefects_worker_asks_on_where_its_own_gives_up_and_other_errors_end_it() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 60:
            raise RuntimeError("another")
        if asked < 50:
            raise httpx.ConnectError("away")

    def run(loop: Callable[..., Coroutine[object, object, None]]) -> None:
        asyncio.run(loop(workload=ask, interval=0, backoff=4, printer=lambda *_: None))

    with pytest.raises(RuntimeError, match=worker.GIVES_UP):
        run(base.critical_service_loop)
    assert asked == 12
    with pytest.raises(RuntimeError, match="^another$"):
        run(worker.asking_on(base.critical_service_loop))
    assert asked == 60


def test_prefects_command_as_we_start_it_has_loops_that_ask_on() -> None:
    program = (
        "from prefect.workers import base; from flows import worker\n"
        "try: worker.prefect()\n"
        "except SystemExit: print(base.BaseWorker.start.__globals__['critical_service_loop'].__qualname__)"
    )
    done = subprocess.run([sys.executable, "-c", program, "version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "asking_on.<locals>.begin"
    assert inspect.getsource(base.BaseWorker.start).count("critical_service_loop") == 2
