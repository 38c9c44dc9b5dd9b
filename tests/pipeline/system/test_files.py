from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import BusyError, EverestError
from pipeline.system.files import atomic_path, locked, require_space, size_text

HOLD = (
    "import os, sys, time; from pathlib import Path; from pipeline.system.files import locked\n"
    "with locked(Path(sys.argv[1]), 'it'):\n"
    "    os.fork() or time.sleep(60)\n"
    "    print('held', flush=True); time.sleep(60)"
)


def test_a_size_is_told_in_a_unit_of_which_there_is_one() -> None:
    sizes = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 3 << 20: "3.0 MiB", 5 << 29: "2.5 GiB"}
    assert {count: size_text(count) for count in sizes} == sizes


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def test_a_file_that_fails_midway_never_appears(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError):
        write_half(tmp_path / "a.txt")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


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


def test_space_is_asked_for_before_work_starts(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1, "it")
    with pytest.raises(EverestError, match="it needs 1000000.0 GiB") as caught:
        require_space(tmp_path, 10**6 * 2**30, "it")
    assert caught.value.exit_code == 1, "a full disk is no fault of what was given"
