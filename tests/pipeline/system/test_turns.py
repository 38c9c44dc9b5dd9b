"""A turn goes with its process, names its holder, and remembers one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

from pipeline.system.locks import Holder, Turn, is_free, turn_holder
from pipeline.system.processes import with_variable

HOLDS = """
import dataclasses, os, sys, time
from pathlib import Path
from pipeline.system.locks import Holder, Turn
turn = Turn(Path(sys.argv[1]))
assert turn.take(Holder(os.getpid(), "id", "demo: finetune.epochs=2", "pretrain", "/run", 0.0))
print("held", flush=True)
time.sleep(60)
"""


def me(name: str = "mine") -> Holder:
    return Holder(os.getpid(), name, name, "finetune@motion", ".", time.time())


def test_a_turn_is_had_by_one_at_a_time_and_says_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "training.lock"
    assert is_free(path)
    first, second = Turn(path), Turn(path)
    assert first.take(me())
    assert not second.take(me("other"))
    assert f"run mine (finetune@motion, process {os.getpid()}, since " in str(turn_holder(path))
    first.give_back()
    assert is_free(path)
    assert turn_holder(path) is None
    assert second.take(me("other"))
    assert second.left is None, "what was given back leaves nothing behind"
    second.give_back()


def test_the_turn_of_a_killed_process_is_free_and_the_next_one_learns_whose_it_was(root: Path, tmp_path: Path) -> None:
    path, mark = tmp_path / "training.lock", uuid4().hex  # no other suite on this machine has it
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)],
        cwd=root,
        stdout=subprocess.PIPE,
        env={**os.environ, "EVEREST_TURN_OF": mark},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert with_variable("EVEREST_TURN_OF", mark) == [process.pid]
    assert not Turn(path).take(me())
    process.send_signal(signal.SIGKILL)
    process.wait()
    turn = Turn(path)
    assert turn_holder(path) is None
    assert turn.take(me())
    assert turn.left is not None
    assert (turn.left.pid, turn.left.name) == (process.pid, "demo: finetune.epochs=2")
    assert with_variable("EVEREST_TURN_OF", mark) == []
    turn.give_back()
