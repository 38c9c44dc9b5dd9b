"""Who holds a lock, for how long, and who does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import BusyError
from pipeline.system.locks import locked

HOLD = (
    "import os, sys, time; from pathlib import Path; from pipeline.system.locks import locked\n"
    "with locked(Path(sys.argv[1]), 'it'):\n"
    "    os.fork() or time.sleep(60)\n"
    "    print('held', flush=True); time.sleep(60)"
)


def test_a_lock_is_dropped_by_death_even_where_a_forked_child_lives_on(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(BusyError, match="Cure: wait"), locked(tmp_path / "lock", "it"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        with locked(tmp_path / "lock", "it"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_lock_excludes_threads_too(tmp_path: Path) -> None:
    order = []
    with locked(tmp_path / "lock", "it"):
        with pytest.raises(BusyError), locked(tmp_path / "lock", "it"):
            pass

        def wait_for_it() -> None:
            with locked(tmp_path / "lock", "it", wait=True):
                order.append("second")

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


CROSSWISE = """
import sys, threading
from pathlib import Path
from pipeline.system.locks import locked
mine, theirs, held, enough = Path(sys.argv[1]), Path(sys.argv[2]), threading.Event(), threading.Event()
def hold():
    with locked(mine, "it"):
        held.set()
        enough.wait()
threading.Thread(target=hold).start()
held.wait()
print("held", flush=True)
sys.stdin.readline()
threading.Timer(0.3, enough.set).start()
with locked(theirs, "it", wait=True):
    print("done", flush=True)
"""


def test_threads_that_wait_crosswise_are_no_deadlock(tmp_path: Path, root: Path) -> None:
    """The kernel sees only that each process waits for the other, and breaks one wait off."""
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CROSSWISE, *order],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (names, names[::-1])
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=30)[0] for process in both] == ["done\n", "done\n"]
