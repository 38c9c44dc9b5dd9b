"""One training at a time on a machine: two would halve each other's memory.

The real guard is a lock file in the checkout, which the kernel releases however a process ends. A deployment also
takes a slot of Prefect's concurrency limit (flows/chain/slot.py), so that its page shows who trains. Whoever waits
says for whom, and hears within a second that the run is to stop.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import flow_run

from flows.chain.guard import Children
from flows.chain.lines import say
from flows.chain.repro import StageStopped
from flows.chain.slot import slot
from pipeline.experiments.workspace import Workspace
from pipeline.layout import RUN_VARIABLE, TRAINING_LOCK, noted_file
from pipeline.system.locks import Holder, Turn, turn_holder
from pipeline.system.processes import with_variable

#: [s] between two looks at a turn that another has, and between two words about it.
POLL_SECONDS, SAY_SECONDS = 1.0, 60.0


@contextmanager
def training_turn(stage: str, where: Workspace, children: Children) -> Iterator[None]:
    """Wait until no other flow run of this machine's checkout trains.

    Raises:
        StageStopped: the run was told to stop while it waited.
    """
    path = lock_file(where.root)
    wait = Wait(stage, children)
    who = Holder(os.getpid(), where.name, str(flow_run.name or where.name), stage, str(where.folder), time.time())
    turn = Turn(path)
    while not turn.take(who):
        wait(lambda: holder_words(turn_holder(path)))
    try:
        # A killed flow's stage saves its state: until then its files and its devices are not free.
        while turn.left and with_variable(RUN_VARIABLE, turn.left.run):
            wait(partial("the end of what {} has left: it saves".format, turn.left))
        with slot(f"{os.uname().nodename}:{path}", wait):
            yield
    finally:
        turn.give_back()


def lock_file(root: Path) -> Path:
    """The lock of the one training of a checkout."""
    return root / TRAINING_LOCK


class Wait:
    """One look's pause; says now and then what it waits for."""

    def __init__(self, stage: str, children: Children) -> None:
        self._stage = stage
        self._children = children
        self._said = -SAY_SECONDS

    def __call__(self, what: Callable[[], str]) -> None:
        """Pause, with a word about `what()` each minute; raises StageStopped when the run is to stop."""
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            tell(f"{self._stage}: waits for {what()}")
        until = time.monotonic() + POLL_SECONDS
        while time.monotonic() < until:
            if self._children.stopping:
                raise StageStopped(f"{self._stage} was stopped while it waited. Cure: start again.")
            time.sleep(0.1)


def tell(line: str) -> None:
    """A line for the terminal and for the run's page."""
    say(line)
    get_run_logger().info(line)


def holder_words(who: Holder | None) -> str:
    """Who has the turn, and how far it is."""
    if who is None:
        return "another training, which has just begun or ended"
    text = progress(who)
    return f"{who}{f', {text}' if text else ''}"


def progress(who: Holder) -> str:
    """`step 340 of 768`, as the stage of a holder notes it; empty where it has not said so yet."""
    note = Path(who.folder) / noted_file(who.stage.rpartition(":")[2].replace("@", "-"))
    try:
        match = re.search(r"(\d+)/(\d+)", note.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return f"step {match[1]} of {match[2]}" if match else ""
