"""A stopped parent waits for its child to save, however long that takes, and however it was started itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.system.processes import follow_parent

SAVES_SLOWLY = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1] + ".ready").write_text("ready")
time.sleep(60)
"""
PARENT = """
import sys
from pipeline.system.processes import run_child
sys.exit(run_child([sys.executable, *sys.argv[1:]]))
"""
#: A program with no handler of its own, as most stages are: Ctrl-C ends it, and its `finally` saves.
ENDS_BY_CTRL_C = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1] + ".ready").write_text("ready")
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
"""


def wait_for(path: Path) -> None:
    """Until the file is there and written: it is empty for a moment."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_that_takes_a_second_to_save_is_given_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(SAVES_SLOWLY)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child.py"), str(tmp_path / "out")]
    parent = subprocess.Popen(command, cwd=root, start_new_session=True)
    wait_for(tmp_path / "out.ready")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 130
    assert (tmp_path / "out").read_text() == "saved"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_background_job_of_a_script_that_is_stopped_lets_its_child_save(
    how: signal.Signals, root: Path, tmp_path: Path
) -> None:
    """`nohup everest compare &` in a script: the shell has it, and all below it, ignore SIGINT."""
    (tmp_path / "child.py").write_text(ENDS_BY_CTRL_C)
    (tmp_path / "parent.py").write_text(PARENT)
    words = f"{sys.executable} {tmp_path}/parent.py {tmp_path}/child.py {tmp_path}/out"
    line = f"nohup {words} > {tmp_path}/log 2>&1 & echo $!"
    shell = subprocess.run(["sh", "-c", line], cwd=root, capture_output=True, text=True, check=True)
    wait_for(tmp_path / "out.ready")
    os.kill(int(shell.stdout), how)
    wait_for(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "saved"


def test_a_child_hears_ctrl_c_from_a_thread_of_a_process_that_ignores_it() -> None:
    """Flows run their stages in threads."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        shows = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"]
        with ThreadPoolExecutor(1) as pool:
            child = pool.submit(
                subprocess.run,
                shows,
                capture_output=True,
                text=True,
                check=True,
                preexec_fn=follow_parent(signal.SIGTERM),
            ).result()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "default_int_handler" in child.stdout


@pytest.mark.parametrize(("starts", "survives"), [("nohup", True), ("", False)])
def test_a_stage_behind_nohup_outlives_its_shell_and_another_saves(
    starts: str, survives: bool, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "child.py").write_text(
        "from pipeline.system.processes import save_with_parent\nsave_with_parent()\n" + ENDS_BY_CTRL_C
    )
    # Job control, as in a terminal: there the jobs hear SIGINT.
    line = (
        f"set -m; {starts} {sys.executable} {tmp_path}/child.py {tmp_path}/out > {tmp_path}/log 2>&1 & echo $!; read _"
    )
    shell = subprocess.Popen(
        ["bash", "-c", line], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    wait_for(tmp_path / "out.ready")
    shell.kill()
    shell.communicate()
    if survives:
        time.sleep(0.5)
        os.kill(pid, 0)
        assert not (tmp_path / "out").exists()
        os.kill(pid, signal.SIGINT)
    wait_for(tmp_path / "out")
