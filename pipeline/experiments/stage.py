"""One stage as a process of its own: parameters checked first, one copy at a time, ended with its parent."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

from pipeline import preflight
from pipeline.budget.meter import metered
from pipeline.distributed.nodes import this_node
from pipeline.layout import WORK, noted_file
from pipeline.params.frozen import frozen
from pipeline.system.locks import held
from pipeline.system.processes import save_with_parent
from pipeline.system.progress import noted


def run_stage(name: str, benchmark: str | None) -> object:
    """Run a stage in the current folder; returns what it returns.

    Raises:
        InputError: params.yaml or the benchmark's name is wrong or does not fit the data or this machine, or another
            stage's output was computed with other values; nothing was written.
        BusyError: the same stage runs already.
        BudgetSpentError: `compute.budget` is spent; the state is saved.
        ParamsChangedError: a parameter of the stage was edited while it ran; nothing was published.
    """
    # If DVC is killed, its stage saves and ends too, instead of training on unseen.
    save_with_parent()
    node = this_node()
    # The nodes of one training share the folder, and each runs the stage.
    with frozen(name, benchmark) as now:
        preflight.require(preflight.stage_scope(now.params, name, benchmark))  # before the lock, which makes a folder
        one = node.named(f"{name}-{benchmark}" if benchmark else name)
        with only_one(one), noted(noted_file(one)), metered(now.params, name, benchmark):
            now.check_sources()
            result = importlib.import_module(f"pipeline.stages.{name}").run(now.params, benchmark)
            if node.main:
                now.conclude()
    return result


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold `.work/<name>.lock`; the kernel lets go of it however this process ends."""
    with held(WORK / f"{name}.lock", f"{name} runs already in {Path.cwd()}"):
        yield
