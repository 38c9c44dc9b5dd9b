"""The parts of `everest status`: histories in pieces, locks as the kernel lists them, commands, Prefect's answers."""

from __future__ import annotations

import csv
import fcntl
import http.server
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.monitor.record import Look, MonitorRecord, write_record
from pipeline.status import history, prefect
from pipeline.status.places import places
from pipeline.status.processes import _words
from pipeline.status.records import Checkout, Stage, Status
from pipeline.status.screen import screen
from pipeline.status.training import read_training
from pipeline.status.words import ago, sparkline
from pipeline.system.locks import held, holders
from pipeline.tracking.names import LOSS_SHARE, TRAIN_LOSS, VAL_TOP1
from pipeline.training.journal import COLUMNS


def _write_history(path: Path, steps: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for step in range(1, steps + 1):
            loss = 1 / step
            writer.writerow({"step": step, "epoch": step // 100, "loss": loss, "lr": 0.1, "seconds": 0.25})
            if step % 100 == 0:
                writer.writerow({"step": step, "epoch": step // 100, "val_top1": step / steps})


def test_a_short_history_is_read_whole(tmp_path: Path) -> None:
    _write_history(tmp_path / "history.csv", 300)
    read = history.read_history(tmp_path / "history.csv")
    assert (read.step, read.epoch, read.rate) == (300, 3, 4.0)
    assert [step for step, _ in read.curves[TRAIN_LOSS]] == list(range(1, 301))
    assert read.curves[VAL_TOP1] == [(100, 100 / 300), (200, 200 / 300), (300, 1.0)]


def test_of_a_long_one_pieces_of_all_of_it_are_read_and_its_end(tmp_path: Path) -> None:
    _write_history(tmp_path / "history.csv", 200_000)
    read = history.read_history(tmp_path / "history.csv")
    steps = [step for step, _ in read.curves[TRAIN_LOSS]]
    assert read.step == 200_000
    assert len(steps) < 200_000 / 40
    assert steps[0] == 1
    assert steps == sorted(steps)
    assert max(b - a for a, b in itertools.pairwise(steps)) < 200_000 / 32
    assert all(value == pytest.approx(1 / step) for step, value in read.curves[TRAIN_LOSS])


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    _write_history(tmp_path / "history.csv", 10)
    with (tmp_path / "history.csv").open("a") as file:
        file.write("11,0,0.09")
    assert history.read_history(tmp_path / "history.csv").step == 10


def test_sparklines_go_from_lowest_to_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0]) == "▅"
    assert sparkline([0, math.nan, 1]) == "▁·█"
    assert len(sparkline(range(1000), 24)) == 24
    assert sparkline(range(1000), 24)[-1] == "█"
    assert [ago(s) for s in (5, 200, 3 * 3600, 5 * 86400)] == ["5 s", "3 min", "3 h", "5 days"]


def test_the_kernel_tells_who_holds_a_lock_and_who_waits(tmp_path: Path) -> None:
    lock = tmp_path / "training.lock"
    assert holders(lock).holder is None
    code = "import fcntl,sys\nfile = open(sys.argv[1], 'a')\nprint(1, flush=True)\nfcntl.lockf(file, fcntl.LOCK_EX)"
    with lock.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        waiting = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
        waiting.stdout.readline()
        until = time.monotonic() + 20
        while not holders(lock).waiting and time.monotonic() < until:
            time.sleep(0.05)
        assert holders(lock).holder == os.getpid()
        assert holders(lock).waiting == (waiting.pid,)
    assert waiting.wait(20) == 0
    with held(tmp_path / "experiment.lock", "it runs"):
        assert holders(tmp_path / "experiment.lock").holder == os.getpid()
    assert holders(tmp_path / "experiment.lock").holder is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/x/.venv/bin/python", "/x/.venv/bin/everest", "run"], "everest run"),
        (["python3.11", "-m", "pipeline.cli", "finetune", "motion"], "everest finetune motion"),
        (["/usr/bin/python3", "-m", "flows.local", "a.json"], "flows.local a.json"),
        (["python", "-m", "dvc", "repro", "pretrain"], "dvc repro pretrain"),
        (["python", "/x/bin/prefect", "worker", "start"], "prefect worker start"),
        (["everest", "status", "--watch"], ""),
        (["vim", "everest", "run"], ""),
        (["python", "-c", "everest run"], ""),
        ([], ""),
    ],
)
def test_our_commands_are_told_from_others(command: list[str], words: str) -> None:
    assert " ".join(_words(command)) == words


def test_the_folders_of_a_comparison_are_places_with_their_own_command(tmp_path: Path) -> None:
    cell = tmp_path / ".work" / "compare" / "tube-seed1-0123456789ab"
    cell.mkdir(parents=True)
    (cell / "params.yaml").touch()
    (tmp_path / ".work" / "compare" / "rates").mkdir()
    result = places(tmp_path)
    assert [(place.series, place.command) for place in result] == [
        ("", "everest run"), ("tube-seed1", "everest compare"),
    ]  # fmt: skip


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers as Prefect 3 does, with one run that waits for the slot of another."""

    answers: ClassVar = {
        "/api/flow_runs/filter": [
            {"id": "a", "name": "red-fox", "state_name": "Running", "start_time": "2026-01-01T00:00:00Z",
             "deployment_id": "d", "expected_start_time": None},
            {"id": "b", "name": "blue-owl", "state_name": "Running", "start_time": "2026-01-01T00:01:00Z",
             "deployment_id": "d", "expected_start_time": None},
        ],
        "/api/task_runs/filter": [
            {"id": "t", "name": "pretrain", "state_name": "Running", "flow_run_id": "a"},
            {"id": "v", "name": "finetune", "state_name": "Pending", "flow_run_id": "a"},
            {"id": "u", "name": "pretrain", "state_name": "Pending", "flow_run_id": "b"},
        ],
        "/api/deployments/filter": [{"id": "d", "name": "demo"}],
        "/api/v2/concurrency_limits/filter": [{"id": "l", "name": "gpu", "limit": 1, "active_slots": 1}],
    }  # fmt: skip

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(self.answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{served.server_port}/api")
    yield served
    served.shutdown()
    served.server_close()


def test_prefect_tells_who_runs_and_who_waits_for_the_gpu(server: object, tmp_path: Path) -> None:
    (tmp_path / ".work" / "worktrees" / "b").mkdir(parents=True)
    state = prefect.ask_prefect([tmp_path])
    assert state.fault == ""
    first, second = state.runs
    assert (first.name, first.deployment, first.tasks, first.waits_for) == (
        "red-fox", "demo", ["pretrain running", "finetune pending"], ""
    )  # fmt: skip
    assert second.waits_for == "the slot of the limit 'gpu', which another training holds"
    assert second.place == str(tmp_path / ".work" / "worktrees" / "b")
    assert first.since == 1767225600.0


@pytest.mark.parametrize("address", ["http://user:hunter22@127.0.0.1:9/api", "http://127.0.0.1:9/api?token=hunter22"])
def test_a_dead_server_is_one_line_without_its_password(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    began = time.monotonic()
    state = prefect.ask_prefect([])
    assert time.monotonic() - began < prefect.ANSWER_SECONDS + 1
    assert state.runs == []
    assert state.fault.startswith("no answer from Prefect at http://")
    assert "hunter22" not in json.dumps([state.address, state.fault])
    assert "\n" not in state.fault


def test_a_server_that_never_answers_does_not_hold_up_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        monkeypatch.setattr(prefect, "ANSWER_SECONDS", 0.5)
        began = time.monotonic()
        assert prefect.ask_prefect([]).fault
        assert time.monotonic() - began < 2


def test_without_an_address_prefect_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert prefect.ask_prefect([]) is None


def test_probes_say_of_which_step_they_are(tmp_path: Path) -> None:
    """Looks are rarer than steps: a curve's last value may be hours old."""
    _write_history(tmp_path / "history.csv", 300)
    look = Look(100, 5.0, {LOSS_SHARE: 0.9})
    write_record(tmp_path, MonitorRecord(1000, checked=300, looks=(look,), next_look=400))
    figures = read_training(tmp_path, alive=False, gpus=[])
    assert figures is not None
    stage = Stage("pretrain", None, "", "running", time.time(), 1, figures, None)
    checkout = Checkout(str(tmp_path), "demo", [], [stage], [], [], [])
    lines = [text for text, _ in screen(Status("here", time.time(), [checkout], [], None))]
    assert "      health: healthy (probes of step 100, looks again after step 400)" in lines
