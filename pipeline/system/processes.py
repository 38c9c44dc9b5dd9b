"""Processes: a child that saves when this one is told to stop, none that outlives its parent, and who holds what."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: linux/prctl.h
_PR_SET_PDEATHSIG = 1
#: The descriptor itself: `sys.stderr` may have been replaced.
STDERR = 2
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a child that was told to stop ends with.
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)


def die_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """Ask the kernel (Linux) to send `how` to this process when its parent ends, however it ends.

    Args:
        parent: the expected parent; if it is gone already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), how)


def run_child(
    command: Sequence[str],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    at_our_death: signal.Signals = signal.SIGTERM,
    shares_stdout: bool = False,
) -> int:
    """Run a command to its end and return its exit code.

    It has a process group of its own: a Ctrl-C in the terminal comes to this process alone, which hands it on and
    waits for the child to save. `at_our_death` is what the kernel sends it if this process ends without a word. What it
    prints goes to stderr, since stdout is for our own result, unless it `shares_stdout`.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdout=None if shares_stdout else STDERR,
        env=None if environment is None else dict(environment),
        process_group=0,
        preexec_fn=lambda: die_with_parent(at_our_death),
    )
    previous = {number: signal.signal(number, lambda *_: child.send_signal(signal.SIGINT)) for number in STOPPING}
    try:
        code = child.wait()
        if code < 0:  # a killed one leaves behind what it started, such as Prefect's embedded server
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        return code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def describe(pid: int) -> str:
    """Who a process is, for messages that name the holder of a lock: `process 123 (dvc repro, since 14:03)`.

    Without the brackets where it is gone or belongs to another user.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        words, began = process.cmdline() or [process.name()], process.create_time()
    except psutil.Error:
        return f"process {pid}"
    day = "%H:%M" if time.time() - began < 12 * 3600 else "%Y-%m-%d %H:%M"
    return f"process {pid} ({_short(words)}, since {time.strftime(day, time.localtime(began))})"


def is_program(pid: int, name: str) -> bool:
    """Whether a process lives whose command names `name`; a number may have gone to another program since."""
    import psutil

    try:
        return any(name in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's: it lives
        return True


def _short(words: list[str]) -> str:
    """A command without the interpreter's and the folder's names."""
    shown = [word.rsplit("/", 1)[-1] for word in words[:6]]
    if shown and shown[0].startswith("python"):
        shown = shown[1:]
    return " ".join(word for word in shown if word not in ("-m", "-I", "-u"))[:80]
