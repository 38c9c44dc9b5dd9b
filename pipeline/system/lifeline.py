"""No process of ours outlives the one that it works for: the kernel sees to it (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal

#: linux/prctl.h
_PR_SET_PDEATHSIG = 1


def die_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """Ask the kernel to send `how` to this process when its parent ends, however it ends.

    Args:
        parent: the expected parent; if it is gone already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), how)
