"""`everest compare`: strategies side by side at equal cost, with several seeds.

Each training is a cell: a folder of its own with params.yaml, where the ordinary stages run over this
project's data. A finished cell is not run again, so a stopped comparison goes on where it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline import layout
from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.evaluation.equal import Equal, Trial, arm_overrides, plan, training_rate, with_overrides
from pipeline.params import SCRATCH, Params, load_params

CELLS = layout.WORK / "compare"
RESULTS = Path("outputs/compare")


def command(
    strategies: Sequence[str] = ("everest", "tube"),
    seeds: Sequence[int] = (0, 1, 2),
    equal: Equal = "multiply-adds",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run a comparison with params.yaml (and `overrides`) and write its report to outputs/compare.

    Args:
        strategies: names of `pipeline.evaluation.equal.ARMS`, or everest-keep-0.4; the first is the one the others
            are compared with, and sets the budget.
        seeds: one training of each strategy for each.
        equal: what all spend alike: multiply-adds or wall time of pre-training, or epochs.
        dry_run: plan only.

    Returns:
        trials (what is run), and after a run also results, differences and the report's path.

    Raises:
        InputError: unknown names, or data that `dvc repro` has not made yet.
    """
    params = load_params(overrides=overrides)
    rates = None
    if equal == "wall-time":
        rates = {arm: training_rate(with_overrides(params, arm_overrides(arm))) for arm in strategies}
    trials = plan(params, strategies, seeds, equal, rates)
    rows = [_row(trial) for trial in trials]
    if dry_run:
        return {"trials": rows}
    _check_data(params)
    for number, trial in enumerate(trials, 1):
        run_cell(trial, note=f"[{number}/{len(trials)}] {trial.arm}, seed {trial.seed}")
    from pipeline.report.comparison import summarise, write_comparison
    from pipeline.tracking import stage_run

    values = {"strategies": list(strategies), "seeds": list(seeds), "equal": equal}
    summary = summarise(trials, {_name(trial): cell(trial) for trial in trials}, equal)
    with stage_run("compare", None, values, layout.work_dir("compare", None, layout.fingerprint(values))) as tracked:
        for file in write_comparison(summary, RESULTS):
            tracked.artifact(file, "report")
        tracked.metrics(
            {f"{row['strategy']}/{row['benchmark']}/top1_mean": row["top1"] / 100 for row in summary["results"]}
        )
    return {"trials": rows, **summary, "report": str(RESULTS / "report.html")}


def cell(trial: Trial) -> Path:
    """The folder of a training, named by everything that makes its result."""
    values = trial.params.model_dump(mode="json", exclude={"compute"})
    return CELLS / f"{_name(trial)}-{layout.fingerprint(values)}"


def _name(trial: Trial) -> str:
    return f"{trial.arm}-seed{trial.seed}"


def run_cell(trial: Trial, note: str = "", run: Callable[..., int] = subprocess.call) -> Path:
    """Run the stages of one training that are not done yet.

    Raises:
        EverestError: a stage failed.
        Interrupted: Ctrl-C; what was done is kept.
    """
    from pipeline.terminal import say

    folder = cell(trial)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(trial.params.model_dump(mode="json"), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    root = Path.cwd()
    for shared in ("data", "dvc.lock"):
        link = folder / shared
        if not link.exists() and (root / shared).exists():
            link.symlink_to(root / shared)
    environment = {
        **os.environ,
        "EVEREST_DATA": str(layout.data_root().absolute()),
        "EVEREST_RUNS": str((root / layout.WORK / "runs").absolute()),
        "EVEREST_COMPARE_ARM": trial.arm,
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}"),
    }
    for stage, benchmark in _stages(trial.params):
        if (folder / layout.metrics_file(stage, benchmark)).exists():
            continue
        words = [stage, *([benchmark] if benchmark else [])]
        say(f"{note}: {' '.join(words)}")
        program = [sys.executable, "-c", "from pipeline.cli import main; main()", *words]
        try:
            code = run(program, cwd=folder, env=environment)
        except KeyboardInterrupt:
            raise Interrupted("comparison stopped; the same command continues it") from None
        if code == Interrupted.exit_code:
            raise Interrupted("comparison stopped; the same command continues it")
        if code:
            raise EverestError(
                f"{' '.join(words)} of {trial.arm}, seed {trial.seed}, ended with code {code} in {folder}. "
                "Cure: mend what its message names; the same command continues."
            )
    return folder


def _stages(params: Params) -> list[tuple[str, str | None]]:
    first: list[tuple[str, str | None]] = [] if params.finetune.init == SCRATCH else [("pretrain", None)]
    return first + [(stage, name) for name in params.benchmarks for stage in ("finetune", "evaluate")]


def _check_data(params: Params) -> None:
    missing = [b for b in params.benchmarks if not (layout.cache_dir(b) / "cache.json").exists()]
    missing += [b for b in params.pretrain.corpus if not layout.corpus_file(b).exists()]
    if missing:
        targets = " ".join(f"corpus@{name}" for name in sorted(set(missing)))
        raise InputError(f"no cached data of {', '.join(sorted(set(missing)))}. Cure: `dvc repro {targets}` first.")


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "strategy": trial.arm,
        "seed": trial.seed,
        "epochs": trial.params.pretrain.epochs if trial.gmacs_per_clip else 0,
        "gmacs_per_clip": round(trial.gmacs_per_clip, 4),
        "gmacs_per_corpus_clip": round(trial.pretrain_gmacs, 3),
    }
