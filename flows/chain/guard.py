"""Stopping a chain of processes without losing work.

    flow process
    +- dvc repro -s STAGE     own session; told to end when the flow process dies
       +- everest STAGE       saves and ends on SIGINT
          +- torchrun, ranks

SIGINT to the whole group is the one signal that ends this well: dvc ignores it, the stage saves, dvc's lock file ends
clean. SIGTERM would kill dvc at once and leave the ranks alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from pipeline.system.processes import follow_parent, stop_handled


class Children:
    """The child processes of one flow run, which a signal to the flow reaches as SIGINT, once."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        #: Who tells a child first: a second SIGINT would end what saves.
        self._told: dict[subprocess.Popen[bytes], object] = {}
        self._lock = threading.Lock()
        self.stopping: signal.Signals | None = None
        #: Whether the flow has an end already, so that the signal need have no effect of its own.
        self.settled = False

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        log: IO[bytes],
    ) -> int:
        """Run one command to its end and return its exit code; what it prints goes to `log`."""
        if self.stopping:
            return -signal.SIGINT
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=follow_parent(signal.SIGTERM),
        )
        with self._lock:
            self._running.add(child)
        try:
            if self.stopping:  # it came before the child was among those that run
                self._tell(child)
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    def stop(self, number: int, _frame: FrameType | None = None) -> None:
        """Ask every child to save and end. A second Ctrl-C is passed on as well: an impatient user means it."""
        again = self.stopping is not None
        if again and number != signal.SIGINT:  # a worker's, behind the one that the run gave itself
            return
        self.stopping = signal.Signals(number)
        with contextlib.suppress(OSError):  # whoever owned the terminal may have been killed
            sys.stderr.write("\nStopping: the running stage saves its state, then everything ends.\n")
        for child in list(self._running):  # no lock: a signal handler must not wait for one
            self._tell(child, again)

    def _tell(self, child: subprocess.Popen[bytes], again: bool = False) -> None:
        ours = object()
        if self._told.setdefault(child, ours) is ours or again:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)


@contextlib.contextmanager
def guard() -> Iterator[Children]:
    """Hand a stop signal on to the children, let them end, then let the signal have its usual effect."""
    children = Children()
    try:
        # A run that has its end keeps it: Prefect would make a crash of a signal that comes while it tidies up.
        with stop_handled(children.stop, keep=lambda: children.settled):
            yield children
    finally:
        if children.stopping and not children.settled:
            os.kill(os.getpid(), children.stopping)
