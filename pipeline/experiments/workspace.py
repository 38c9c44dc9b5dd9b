"""Stages run somewhere else than in the checkout: a folder, its params.yaml, links, an environment, and `run`.

Trainings of a comparison, repetitions, reproductions and flow runs are all workspaces of the checkout at `root`. It
lends them its videos, its unfinished work, its tracked runs and its tracking store, so that nothing is computed twice
and nothing is lost with a folder.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import layout
from pipeline.errors import BudgetSpentError, EverestError, InputError, Interrupted, Paused
from pipeline.params import Params
from pipeline.params.declared import address, deciding, reads_any
from pipeline.params.records import finished
from pipeline.params.write import write_params
from pipeline.system.processes import STOPPED, run_child
from pipeline.tracking.headline import ran

#: Runs a command in a folder with an environment, returns its exit code.
Run = Callable[..., int]
#: A stage and the benchmark or corpus that it works on.
Step = tuple[str, str | None]


@dataclass(frozen=True)
class Workspace:
    """Where stages run: `folder`, for the checkout at `root`, with this environment, under this name."""

    name: str
    folder: Path
    root: Path
    environment: Mapping[str, str]

    @property
    def logs(self) -> Path:
        """Where a flow keeps the output of its stages."""
        return self.folder / layout.WORK / "logs" / self.name

    def prepare(self, params: Params, links: Mapping[str, Path]) -> None:
        """Write params.yaml, and link in what the workspace does not own; a link to what is absent is left out."""
        write_params(self.folder / "params.yaml", params)
        for name, target in links.items():
            link = self.folder / name
            # Always anew: the checkout that it pointed to may be gone.
            link.unlink(missing_ok=True)
            if target.exists():
                link.symlink_to(target)

    def run(
        self,
        steps: Iterable[Step],
        params: Params,
        report: Report,
        *,
        remade: set[str] | None = None,
        take_over: Callable[[str, str | None], str] = lambda stage, benchmark: "",
        run: Run = run_child,
    ) -> None:
        """Run the stages that are not done yet, or read what was just made again, in order.

        Args:
            remade: addresses of stages that were made again already, in other workspaces; this one's are added.
            take_over: puts a stage's finished result into the folder where there is one, and says whose; else "".

        Raises:
            EverestError: a stage failed.
            Interrupted: a signal stopped it; what was done is kept.
        """
        from pipeline.system.terminal import say

        remade = set() if remade is None else remade
        for stage, benchmark in steps:
            if finished(stage, benchmark, self.folder) and not reads_any(stage, benchmark, params, remade):
                continue
            remade.add(address(stage, benchmark))
            line = f"{report.note}: {' '.join(_words(stage, benchmark))}"
            if whose := take_over(stage, benchmark):
                say(f"{line} (taken from {whose})")
                continue
            say(f"{line} started")
            began = time.monotonic()
            self.run_stage(stage, benchmark, report, run=run)
            say(f"{line} {ran(stage, benchmark, self.folder, time.monotonic() - began)}")

    def run_stage(
        self, stage: str, benchmark: str | None, report: Report, run: Run = run_child, **options: signal.Signals
    ) -> None:
        """Run one stage, done or not; raises as :meth:`run` does."""
        words = _words(stage, benchmark)
        code = run([sys.executable, "-m", "pipeline.cli", *words], self.folder, self.environment, **options)
        if code in STOPPED:
            raise Interrupted(report.stopped)
        if code == Paused.exit_code:
            raise Paused(f"{' '.join(words)}{report.whose} paused.")
        if code == BudgetSpentError.exit_code:
            raise BudgetSpentError(f"budget spent: {' '.join(words)}{report.whose} says above by what.")
        if code:
            raise EverestError(
                f"{' '.join(words)}{report.whose} ended with code {code}{report.where}. Cure: {report.cure}"
            )


@dataclass(frozen=True)
class Report:
    """What is said of a workspace's stages.

    Args:
        stopped: the message where a signal ended a stage.
        cure: of a failed stage.
        note: the beginning of each line.
        whose: whose stage it is, behind its name.
        where: the folder, where it outlives the failure.
    """

    stopped: str
    cure: str
    note: str = ""
    whose: str = ""
    where: str = ""


def environment(root: Path, code: Path, saved: Path, **more: str) -> dict[str, str]:
    """Make the environment of stages that run elsewhere: this process's, what the checkout lends, and `own`.

    Args:
        root: the checkout that lends its videos, tracked runs, trainings of comparisons and tracking store.
        code: the folder whose code runs.
        saved: where unfinished trainings and caches lie; on the file system of the stages' outputs.
    """
    work = root / layout.WORK
    shared = {
        "EVEREST_RUNS": str(work / "runs"),
        "EVEREST_CELLS": str(work / "compare"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
    }
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])),
        "EVEREST_WORK": str(saved),
        "EVEREST_DATA": str((root / layout.data_root()).absolute()),
        **{name: os.environ.get(name) or value for name, value in shared.items()},
        **more,
    }


def training_steps(benchmarks: Iterable[str], pretrains: bool) -> list[Step]:
    """The stages of one training, in order."""
    first: list[Step] = [("pretrain", None)] if pretrains else []
    return first + [(stage, name) for name in benchmarks for stage in ("finetune", "evaluate")]


def result_values(params: Params, benchmarks: Collection[str]) -> dict[str, object]:
    """The parameters that decide what a training on these benchmarks gives, by their dotted keys."""
    values = deciding(params, benchmarks)
    return {key: value for key, value in values.items() if key.partition(".")[0] not in ("compare", "recipe")}


def require_data(benchmarks: Iterable[str], corpora: Collection[str]) -> None:
    """Refuse to train on data that the checkout has not made yet.

    Raises:
        InputError: names the command that makes them.
    """
    missing = {name for name in benchmarks if not (layout.cache_dir(name) / "cache.json").exists()}
    missing |= {name for name in corpora if not layout.corpus_file(name).exists()}
    if missing:
        stages = [address("corpus" if name in corpora else "preprocess", name) for name in sorted(missing)]
        raise InputError(f"no cached data of {', '.join(sorted(missing))}. Cure: `dvc repro {' '.join(stages)}` first.")


def _words(stage: str, benchmark: str | None) -> list[str]:
    return [stage, *([benchmark] if benchmark else [])]
