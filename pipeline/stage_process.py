"""One stage as a process of its own: parameters checked first, one copy at a time, ended with its parent."""

from __future__ import annotations

import contextlib
import importlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import preflight
from pipeline.layout import WORK
from pipeline.lifeline import die_with_parent
from pipeline.locks import held
from pipeline.params import load_params
from pipeline.training.nodes import this_node


def run_stage(name: str, benchmark: str | None) -> Any:
    """Run a stage in the current folder; returns what it returns.

    Raises:
        InputError: params.yaml or the benchmark's name is wrong, or does not fit the data or this machine; nothing was
            written.
        BusyError: the same stage runs already.
    """
    params = load_params()
    if benchmark is not None:
        params.benchmark(benchmark)
    preflight.require(preflight.stage_scope(params, name, benchmark))
    # If DVC is killed, its stage saves and ends too, instead of training on unseen.
    die_with_parent(signal.SIGINT)
    # The nodes of one training share the folder, and each runs the stage.
    with only_one(this_node().named(f"{name}-{benchmark}" if benchmark else name)):
        return importlib.import_module(f"pipeline.stages.{name}").run(params, benchmark)


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold `.work/<name>.lock`; the kernel lets go of it however this process ends."""
    with held(WORK / f"{name}.lock", f"{name} runs already in {Path.cwd()}"):
        yield
