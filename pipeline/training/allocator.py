"""Keeping memory between the steps of a training on a CPU.

By default glibc gives every large block back to the kernel as soon as it is freed, so that each step faults in all
its activations anew: tens of thousands of page faults, and kernel time, a step.
"""

from __future__ import annotations

import ctypes

#: Parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process reuse freed blocks of any size instead of returning them; False where libc has no mallopt.

    For a process that asks for the same memory at every step: its peak stays what it was, and stays taken.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
