"""`everest compare` whose stages and ranks are forks of one warm process: all that they do, without their imports.

`python warm_stages.py a,b,c` compares these strategies in the current project. What differs from the command alone is
how a process begins: `fork` in place of a fresh Python, which takes seconds to import torch.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WARM = (
    "pipeline.cli", "pipeline.experiments.stage", "pipeline.stages.pretrain", "pipeline.stages.finetune",
    "pipeline.stages.evaluate", "pipeline.training.worker", "pipeline.training.tasks", "pipeline.training.engine",
    "pipeline.evaluation.benchmark", "pipeline.tracking.store", "pipeline.report.comparison_page", "mlflow.tracking",
    "models.registry", "timm", "matplotlib.figure", "pipeline.pictures.draw", "sklearn.linear_model",
)  # fmt: skip


def main(strategies: str) -> int:
    """Run the comparison, print what it says."""
    for name in WARM:
        importlib.import_module(name)
    from pipeline.distributed import start
    from pipeline.experiments import cells, compare

    compare.run_cell = functools.partial(cells.run_cell, run=stage_in_fork)  # type: ignore[assignment]
    start.launch = rank_in_fork  # type: ignore[assignment]
    outcome = compare.command({"compare.strategies": strategies.split(","), "compute.ranks": 1})
    sys.stdout.write("\n".join(outcome["sentences"]) + "\n")
    return 0


def stage_in_fork(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """In place of `run_child`: the stage that `python -m pipeline.cli STAGE [BENCHMARK]` would run."""

    def stage() -> int:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        from pipeline.experiments.stage import run_stage

        run_stage(command[3], command[4] if len(command) > 4 else None)
        return 0

    return _forked(stage)


def rank_in_fork(module: str, arguments: Sequence[str], *, work: Path, **_: object) -> None:
    """In place of `launch`: one rank of a training."""
    from pipeline.distributed import heartbeat

    heartbeat.create(work / "beats", 1)

    def rank() -> int:
        sys.argv = [module, *arguments, "--work", str(work)]
        return int(importlib.import_module(module).main())

    code = _forked(rank)
    if code:
        raise SystemExit(code)


def _forked(body: Callable[[], int]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = body()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
