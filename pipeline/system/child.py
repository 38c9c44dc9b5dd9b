"""A child process that saves and ends when this one is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.system.lifeline import die_with_parent

#: The descriptor itself: `sys.stderr` may have been replaced.
STDERR = 2
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a child that was told to stop ends with.
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)


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
