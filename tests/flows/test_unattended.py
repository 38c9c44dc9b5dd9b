"""What nobody watches: servers, workers and runs that are killed, restarted or cancelled at any moment."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect_site import until
from toy_deployment import Toy, deploy, forget, make_toy

from flows.chain.orders import NO_HEARTBEAT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    toy = make_toy(root, tmp_path_factory.mktemp("unattended") / "project")
    try:
        toy.start_server()
        deploy(toy)
        yield toy
    finally:
        toy.end()


@pytest.fixture
def toy(served: Toy) -> Iterator[Toy]:
    """The served project, without a worker, and with none of its runs left at the end."""
    forget(served)
    worker = served.start_worker()
    yield served
    for run in served.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "RUNNING"]}}}}):
        served.cancel(run["id"])
    for process in served.processes[1:]:
        if process is not served.server and process.poll() is None:
            process.terminate()
            process.wait(60)
    assert worker.poll() is not None
    until(lambda: not served.leftovers(), 60, "every process of a run is gone")


def test_a_run_that_waits_names_the_holder_and_hears_a_cancellation_within_five_seconds(toy: Toy) -> None:
    first = toy.submit(600)
    until(lambda: toy.trains(first), 60, "the first run trains")
    second = toy.submit(601)
    until(lambda: "waits for" in toy.lines(second), 60, "the second run says that it waits")
    line = next(line for line in toy.lines(second).splitlines() if "waits for" in line)
    pid = toy.flow_process(first).pid
    who = rf"run toy: steps=600 \(pretrain, process {pid}, since \d\d:\d\d, {first}\)"
    assert re.fullmatch(rf"pretrain: waits for {who}, step \d+ of 600", line), line
    toy.cancel(second)
    until(lambda: toy.state(second) == "Cancelled", 5, "the waiting run is cancelled")
    assert toy.state(first) == "Running"
    assert toy.slots() == 1


@pytest.fixture
def forgets(toy: Toy) -> Iterator[dict[str, str]]:
    """Prefect's own setting, with which the server runs: leases in memory."""
    memory = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.memory"}
    toy.stop_server()
    toy.start_server(**memory)
    yield memory
    toy.stop_server()
    toy.start_server()


def test_a_server_that_forgot_a_lease_holds_nobody_up(toy: Toy, forgets: dict[str, str]) -> None:
    """The server is killed while a training has the slot."""
    run = toy.submit(60)
    until(lambda: toy.trains(run) and toy.slots() == 1, 60, "the run has the slot")
    toy.stop_server()
    toy.start_server(**forgets)
    until(lambda: toy.state(run) == "Completed", 60, "the run completes although its server was away")
    assert toy.slots() == 1, "the slot is leaked"
    following = toy.submit(62)
    until(lambda: toy.trains(following), 30, "the next training has begun")
    # Prefect sends a run's lines in lots.
    until(lambda: "held by no running training: it is set free" in toy.lines(following), 10, "it says so")
    until(lambda: toy.state(following) == "Completed", 60, "it completes")
    assert toy.slots() == 0


def test_our_server_remembers_who_has_the_slot(toy: Toy) -> None:
    run = toy.submit(150)
    until(lambda: toy.trains(run) and toy.slots() == 1, 60, "the run has the slot")
    toy.stop_server()
    toy.start_server()
    until(lambda: toy.state(run) == "Completed", 60, "the run completes")
    assert toy.slots() == 0


def test_a_run_whose_training_ends_while_the_server_is_away_completes_when_it_is_back(toy: Toy) -> None:
    run = toy.submit(50)
    until(lambda: toy.trains(run) and toy.slots() == 1, 60, "the run has the slot")
    toy.stop_server()
    saved = toy.root / ".work" / "pretrain" / "step-50"
    until(saved.exists, 60, "the training has ended")
    time.sleep(75)  # Prefect tries for 62 s to tell its server of a run's end
    toy.start_server()
    until(lambda: toy.state(run) == "Completed", 60, "the run completes")
    assert toy.began() == [0]


def test_the_successor_of_a_killed_flow_starts_within_thirty_seconds_and_goes_on_from_its_step(toy: Toy) -> None:
    killed = toy.submit(400)
    until(lambda: toy.trains(killed) and toy.slots() == 1, 60, "the run has the slot")
    toy.flow_process(killed).kill()
    until(lambda: toy.state(killed) == "Crashed", 30, "the worker says so")
    successor = toy.submit(400)
    until(lambda: toy.trains(successor), 30, "the successor trains")
    until(lambda: "no running training" in toy.lines(successor), 10, "it says so")
    assert [step > 0 for step in toy.began()] == [False, True], "an equal submission goes on, in another worktree"


def test_the_training_of_a_killed_worker_goes_on_and_is_cancelled_by_the_next_one(toy: Toy) -> None:
    run = toy.submit(900)
    until(lambda: toy.trains(run), 60, "the run trains")
    for process in toy.processes[1:]:
        if process is not toy.server and process.poll() is None:
            process.kill()
            process.wait()
    assert toy.state(run) == "Running"
    worker = toy.start_worker()
    toy.cancel(run)
    until(lambda: toy.state(run) == "Cancelled", 30, "it is cancelled without its worker")
    assert int((toy.root / ".work" / "pretrain" / "step-900").read_text()) > 0, "saved"
    assert toy.slots() == 0
    assert worker.poll() is None


def test_stopping_a_worker_saves_its_runs_and_the_next_worker_goes_on_with_them(toy: Toy) -> None:
    run = toy.submit(300)
    until(lambda: toy.trains(run), 60, "the run trains")
    worker = next(p for p in toy.processes[1:] if p is not toy.server and p.poll() is None)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert toy.state(run) == "Resuming"
    assert toy.leftovers() == []
    saved = int((toy.root / ".work" / "pretrain" / "step-300").read_text())
    assert 0 < saved < 300
    toy.start_worker()
    until(lambda: toy.state(run) == "Completed", 90, "the same run completes")
    assert toy.began() == [0, saved]


@pytest.mark.parametrize("begun", [True, False], ids=["as it trains", "before its flow has begun"])
def test_a_run_that_is_cancelled_as_its_worker_stops_stays_cancelled(toy: Toy, begun: bool) -> None:
    run = toy.submit(300)
    until(lambda: toy.trains(run) if begun else toy.has_process(run), 60, "it has begun")
    worker = next(p for p in toy.processes[1:] if p is not toy.server and p.poll() is None)
    toy.cancel(run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    # Prefect's worker may have been stopped between the end of the run's process and its word about that.
    assert toy.state(run) in ("Cancelled", "Cancelling")
    toy.start_worker()
    following = toy.submit(5)
    until(lambda: toy.state(following) == "Completed", 60, "the next worker works")
    until(lambda: toy.state(run) == "Cancelled", 120, "it is Cancelled, if it was not yet")
    assert len(toy.began()) == (2 if begun else 1), "and was not taken up"


def test_a_run_whose_heartbeats_came_late_is_running_again(toy: Toy) -> None:
    run = toy.submit(200)
    until(lambda: toy.trains(run), 60, "the run trains")
    # What the automation of `everest ops init` does after 90 s, perhaps because the server was away itself.
    toy.crash(run, NO_HEARTBEAT)
    assert toy.state(run) == "Crashed"
    until(lambda: toy.state(run) == "Running", 10, "the run says that it is there")
    until(lambda: toy.state(run) == "Completed", 60, "it completes")


def test_a_run_whose_waiting_is_over_starts_by_itself(toy: Toy) -> None:
    first, second = toy.submit(120), toy.submit(121)
    until(lambda: {toy.state(first), toy.state(second)} == {"Completed"}, 120, "both complete, one after the other")
    assert toy.slots() == 0


def test_a_worker_that_starts_before_its_server_waits_for_it(toy: Toy) -> None:
    toy.stop_server()
    worker = toy.start_worker()
    log = toy.root / "worker.log"
    until(lambda: "worker: waits: Prefect's server at" in log.read_text(), 30, "it says that it waits")
    toy.start_server()
    run = toy.submit(31)
    until(lambda: toy.state(run) == "Completed", 90, "a run completes")
    assert worker.poll() is None


class Broken(BaseHTTPRequestHandler):
    """A server in front of a database that is away."""

    def answer(self) -> None:
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        return


def test_a_server_that_is_broken_for_longer_than_prefects_worker_bears_costs_no_training(toy: Toy) -> None:
    run = toy.submit(6000)
    until(lambda: toy.trains(run), 60, "the run trains")
    log = toy.root / "worker.log"
    before = log.read_text().count("and it is asked again")
    toy.stop_server()
    broken = ThreadingHTTPServer(("127.0.0.1", toy.port), Broken)
    threading.Thread(target=broken.serve_forever, daemon=True).start()
    try:
        until(lambda: log.read_text().count("and it is asked again") > before, 180, "Prefect's worker would give up")
    finally:
        broken.shutdown()
        broken.server_close()
    assert toy.flow_process(run).is_running()
    toy.start_server()
    assert toy.state(run) == "Running"
    following = toy.submit(61)
    until(lambda: "waits for" in toy.lines(following), 120, "the worker takes runs again")
    toy.cancel(run)
    until(lambda: {toy.state(run), toy.state(following)} == {"Cancelled", "Completed"}, 120, "both end as they should")
    assert toy.began()[0] == 0
    assert len(toy.began()) == 2, "the first training went on"


def test_a_worker_of_a_pool_that_is_not_there_says_what_makes_it(toy: Toy) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.worker", "--pool", "evrest"],
        cwd=toy.root, env=toy.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "work pool 'evrest'" in done.stderr
    assert "everest ops init" in done.stderr


def test_runs_that_a_killed_worker_left_behind_are_begun_or_cancelled(toy: Toy) -> None:
    """Killed between taking and beginning, a worker leaves a run that Prefect never starts."""
    for process in toy.processes[1:]:
        if process is not toy.server and process.poll() is None:
            process.kill()
            process.wait()
    taken, ending = toy.submit(32), toy.submit(33)
    for run, kind in ((taken, "Pending"), (ending, "Cancelling")):
        toy.ask(f"flow_runs/{run}/set_state", {"state": {"type": kind.upper(), "name": kind}, "force": True})
    toy.start_worker()
    until(lambda: toy.state(taken) == "Completed", 240, "the one that was taken completes with the next worker")
    until(lambda: toy.state(ending) == "Cancelled", 60, "the other one is cancelled")
    assert "has no process: back in the queue" in (toy.root / "worker.log").read_text()
