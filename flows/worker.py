"""A worker of the pool whose stop saves what it runs: `everest ops worker`, or `python -m flows.worker`.

Prefect's own worker, told to stop, waits until its runs have ended, however many days that takes, and whoever loses
patience kills trainings. Here SIGTERM (`docker stop`, systemd, Ctrl-C) stops the worker and asks each of its runs to
save and end; they are Resuming then, and the next worker goes on with them. A worker that is killed leaves its runs
going; they need none, and a later worker of its pool and checkout saves them with its own. One that starts before its
server waits for it, and one whose server goes away asks on, however long: Prefect's own gives up after some minutes,
and kills its runs then. Where it ends by itself, another is started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import ParamSpec
from urllib.parse import quote
from uuid import UUID, uuid4

import psutil

from flows.chain.abandoned import watch
from flows.chain.orders import PROCESS_RUN, settle_stopped
from pipeline.errors import EverestError
from pipeline.layout import POOL
from pipeline.operations.server import Server
from pipeline.system.processes import follow_parent, on_stop
from pipeline.system.text import visible

#: [s] that runs have to save and end; the ranks of a training get 60 s to reach the end of their step.
GRACE_SECONDS = 90.0
#: [s] between two heartbeats of a run; without some of them in a row it counts as crashed.
HEARTBEAT_SECONDS = 30
#: [s] after which a worker had started well.
STEADY_SECONDS = 120.0
#: [s] between two looks for submitted runs.
QUERY_SECONDS = 5
#: What the loops of Prefect's worker raise when they give up.
GIVES_UP = "Service exceeded error threshold."
#: The variable by which a worker tells its runs in which checkout it was started.
CHECKOUT = "EVEREST_CHECKOUT"
#: The variable by which it knows its runs, also those whose Prefect's worker was killed: name, process and pool.
WORKER = "EVEREST_WORKER"
#: This worker's name. Not its number and start: a process's start, as it is read, moves with the machine's clock.
_NAME = uuid4().hex
_MODULE = "flows.worker"

P = ParamSpec("P")


def main() -> int:
    """Run Prefect's worker until it ends or is to stop; the exit code is 0 where all was saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default=POOL)
    parser.add_argument("--limit", type=int, help="runs at once; all that are submitted if left out")
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds for runs to save and end")
    arguments = parser.parse_args()
    program = "from flows.worker import prefect; prefect()"
    command = [sys.executable, "-c", program, "worker", "start", "--pool", arguments.pool]
    if arguments.limit:
        command += ["--limit", str(arguments.limit)]
    if os.environ.get("PREFECT_WORKER_WEBSERVER_PORT"):  # a container's health check asks there
        command.append("--with-healthcheck")
    asked: list[int] = []
    on_stop(lambda number, _frame: asked.append(number))
    try:
        return _serve(command, arguments.pool, arguments.grace, asked)
    except EverestError as error:
        _say(str(error))
        return error.exit_code


def prefect() -> None:
    """Prefect's own command, whose worker asks on however long its server is away."""
    from prefect.cli import app
    from prefect.workers import base

    base.critical_service_loop = asking_on(base.critical_service_loop)
    app()


def asking_on(loop: Callable[P, Coroutine[object, object, None]]) -> Callable[P, Coroutine[object, object, None]]:
    """A loop of Prefect's worker that begins anew where it gives up, which would end the worker and kill its runs."""

    async def begin(*words: P.args, **options: P.kwargs) -> None:
        while True:
            try:
                return await loop(*words, **options)
            except RuntimeError as error:
                if str(error) != GIVES_UP:
                    raise
            _say("Prefect's server is away; runs go on, and it is asked again")

    return begin


def _serve(command: list[str], pool: str, grace: float, asked: list[int]) -> int:
    pause = 1.0
    if server := Server.found():
        threading.Thread(target=watch, args=(server, pool, _say), daemon=True, name="abandoned").start()
    while _ready(pool, asked):
        began = time.monotonic()
        # SIGINT is how Prefect's worker stops itself; asked to end, it would end its runs as well.
        worker = subprocess.Popen(
            command, env=environment(pool), start_new_session=True, preexec_fn=follow_parent(signal.SIGKILL)
        )
        while worker.poll() is None and not asked:
            time.sleep(0.2)
        if asked:
            return _end(worker, pool, grace)
        if not worker.returncode:
            return 0
        # Such as where the server goes away while Prefect's worker starts. Runs that it had go on.
        pause = 1.0 if time.monotonic() - began > STEADY_SECONDS else min(2 * pause, 60.0)
        _say(f"Prefect's worker ended (exit {worker.returncode}); the next one starts in {pause:.0f} s")
        _until(lambda: asked, pause)
    return _end(None, pool, grace)


def _ready(pool: str, asked: list[int]) -> bool:
    """Wait for the server, which may start later or be away; False where it is to stop before.

    Raises:
        EverestError: the server refuses us, or has no such pool: no waiting helps.
    """
    if server := Server.found():
        path = f"work_pools/{quote(pool, safe='')}"
        try:
            server.wait(path, lambda: asked, lambda why: _say(f"waits: {why}"), lambda: _until(lambda: asked, 2.0))
        except EverestError as error:
            raise EverestError(f"{error} Where it has no work pool {pool!r} yet: everest ops init.") from None
    return not asked


def enter() -> dict[str, str]:
    """Go to the checkout of the worker that took this run, whichever machine that is on: a `pull` step of prefect.yaml.

    Returns:
        the folder, as Prefect's own steps say it.

    Raises:
        EverestError: the worker is none of ours, or its checkout is gone.
    """
    folder = os.environ.get(CHECKOUT, "")
    try:
        os.chdir(folder)
    except OSError:
        raise EverestError(
            f"{CHECKOUT} = {folder!r} is no folder: this run works in the checkout of its worker, which names "
            "none. Cure: `everest ops worker --pool POOL` in a checkout, not `prefect worker start`."
        ) from None
    return {"directory": folder}


def _until(done: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.2)


def environment(pool: str = POOL) -> dict[str, str]:
    """The environment of a pool's worker, which its runs inherit; what is set already stays."""
    defaults = {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS),
    }
    return defaults | os.environ | {CHECKOUT: str(Path.cwd()), WORKER: f"{_NAME} {os.getpid()} {pool}"}


def _end(worker: subprocess.Popen[bytes] | None, pool: str, grace: float) -> int:
    """Stop taking runs, let those that go save and end, then the worker; 1 where time was up."""
    # Told to stop, Prefect's worker would kill its runs on its own terms: it is frozen until they have ended.
    if worker:
        worker.send_signal(signal.SIGSTOP)
    runs = _runs(pool)
    _say(f"stopping: {len(runs)} {'run saves and ends' if len(runs) == 1 else 'runs save and end'}")
    for process in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    left = _wait(runs, grace)
    if worker:
        worker.send_signal(signal.SIGCONT)
        if not left:
            worker.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(10)
        worker.kill()
        worker.wait()
    for process, run in runs.items():
        if process not in left:
            settle_stopped(run)
    if left:
        _say(f"{len(left)} of them did not end within {grace:g} s: process {', '.join(str(p.pid) for p in left)}")
    return 1 if left else 0


def _wait(runs: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """The processes that have not ended by then; the frozen worker leaves those that have as zombies."""
    until = time.monotonic() + seconds
    while left := [process for process in runs if _goes(process)]:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return left


def _goes(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _runs(pool: str = POOL) -> dict[psutil.Process, UUID]:
    """The processes of this worker's runs, and of those that a killed worker has left it; with the runs' ids.

    Those in preparation are among them. Of a run, the topmost process of Prefect's: what a killed flow has left saves
    already, and SIGTERM would end that.
    """
    runs = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, KeyError, ValueError):
            variables = process.environ()
            if _sees_to(variables, pool) and any(word.startswith("prefect.") for word in process.cmdline()):
                run = UUID(variables[PROCESS_RUN])
                if _run_of_parent(process) != str(run):
                    runs[process] = run
    return runs


def _sees_to(variables: dict[str, str], pool: str) -> bool:
    """Whether a run with these variables is ours, or of a worker of this pool and checkout that is gone."""
    name, number, of_pool = variables[WORKER].split(" ", 2)
    if name == _NAME:
        return True
    return of_pool == pool and variables[CHECKOUT] == str(Path.cwd()) and not _works(int(number))


def _works(number: int) -> bool:
    """Whether this process is a worker of ours."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return _MODULE in psutil.Process(number).cmdline()
    return False


def _run_of_parent(process: psutil.Process) -> str:
    """The run that the process above belongs to; empty where that is gone, or none of ours."""
    with contextlib.suppress(psutil.Error):
        above = process.parent()
        return above.environ().get(PROCESS_RUN, "") if above else ""
    return ""


def _say(line: str) -> None:
    sys.stderr.write(f"worker: {visible(line)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
