"""Signals that ask a rank to stop: noted at once, obeyed at the next step boundary by all ranks together."""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: linux/prctl.h
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Remembers the first stopping signal. Install before anything slow: a signal during imports counts
    too.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def install(self) -> StopRequest:
        for number in STOPPING:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name


def die_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """Ask the kernel (Linux) to send `how` when the parent process ends, however it ends.

    Args:
        parent: the expected parent; if it is gone already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), how)
