"""Signals reach the children as SIGINT to their whole group, and no child outlives the flow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from flows.chain.guard import Children
from pipeline.system.processes import STOP

SAVES_ON_SIGINT = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(3)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1] + ".ready").write_text("")
time.sleep(60)
"""

FLOW = """
import pathlib, sys, threading
from flows.chain.guard import guard
with guard() as children, open(sys.argv[2] + ".log", "wb") as log:
    command = [sys.executable, "-c", pathlib.Path(sys.argv[1]).read_text(), sys.argv[2]]
    code = children.run(command, pathlib.Path.cwd(), dict(__import__("os").environ), log)
    pathlib.Path(sys.argv[2] + ".code").write_text(str(code))
"""


@pytest.fixture
def flow(root: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    (tmp_path / "child.py").write_text(SAVES_ON_SIGINT)
    command = [sys.executable, "-c", textwrap.dedent(FLOW), str(tmp_path / "child.py"), str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        cwd=root,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "out.ready")
    return process


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def test_a_run_that_has_its_end_keeps_it_when_a_signal_comes_while_it_tidies_up(root: Path) -> None:
    program = """
import os, signal
from flows.chain.guard import guard
with guard() as children:
    os.kill(os.getpid(), signal.SIGTERM)
    children.settled = True
os.kill(os.getpid(), signal.SIGTERM)
print("tidied up")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "tidied up\n")


@pytest.mark.parametrize("number", STOP)
def test_a_signal_lets_the_child_save_and_then_ends_the_flow(
    flow: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    flow.send_signal(number)
    assert flow.wait(30) == -number
    assert (tmp_path / "out").read_text() == "saved"
    assert (tmp_path / "out.code").read_text() == "3"


def test_a_killed_flow_takes_its_children_along(flow: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(flow.pid).children(recursive=True)
    assert children
    flow.kill()
    flow.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert gone
    assert not alive


COUNTS_SIGINT = """
import pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
pathlib.Path(sys.argv[1] + ".ready").write_text("")
until = time.monotonic() + 20
while not heard and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(len(heard))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_in_the_moment_of_a_start_reaches_the_child_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    children = Children()

    class Running(set):
        """The signal comes just before, or just after, the child is noted."""

        def add(self, child: object) -> None:
            wait_for(tmp_path / "out.ready")
            if moment == "before":
                children.stop(signal.SIGTERM)
            super().add(child)
            if moment == "after":
                children.stop(signal.SIGTERM)

    monkeypatch.setattr(children, "_running", Running())
    command = [sys.executable, "-c", COUNTS_SIGINT, str(tmp_path / "out")]
    with (tmp_path / "log").open("wb") as log:
        assert children.run(command, tmp_path, dict(os.environ), log) == 1


def test_nothing_starts_after_a_stop(tmp_path: Path) -> None:
    children = Children()
    children.stop(signal.SIGINT)
    with (tmp_path / "log").open("wb") as log:
        assert children.run(["touch", str(tmp_path / "started")], tmp_path, dict(os.environ), log) != 0
    assert not (tmp_path / "started").exists()
