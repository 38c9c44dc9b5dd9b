"""One stage as a process of its own: parameters checked first, one copy at a time, ended with its parent."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BusyError
from pipeline.layout import WORK
from pipeline.lifeline import die_with_parent
from pipeline.params import load_params


def run_stage(name: str, benchmark: str | None) -> None:
    """Run a stage in the current folder.

    Raises:
        InputError: params.yaml or the benchmark's name is wrong; nothing was written.
        BusyError: the same stage runs already.
    """
    params = load_params()
    if benchmark is not None:
        params.benchmark(benchmark)
    # If DVC is killed, its stage saves and ends too, instead of training on unseen.
    die_with_parent(signal.SIGINT)
    with only_one(f"{name}-{benchmark}" if benchmark else name):
        importlib.import_module(f"pipeline.stages.{name}").run(params, benchmark)


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold `.work/<name>.lock`; the kernel lets go of it however this process ends."""
    path = WORK / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise BusyError(
                f"{name} runs already in {Path.cwd()} (process {handle.read().strip() or 'unknown'}). "
                "Cure: wait for it, or stop it with Ctrl-C where it runs."
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
