"""A stopped parent waits for its child to save, however long that takes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

SAVES_SLOWLY = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1] + ".ready").write_text("")
time.sleep(60)
"""
PARENT = """
import sys
from pipeline.system.processes import run_child
sys.exit(run_child([sys.executable, sys.argv[1], sys.argv[2]]))
"""


def test_a_child_that_takes_a_second_to_save_is_given_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(SAVES_SLOWLY)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child.py"), str(tmp_path / "out")]
    parent = subprocess.Popen(command, cwd=root, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 130
    assert (tmp_path / "out").read_text() == "saved"
