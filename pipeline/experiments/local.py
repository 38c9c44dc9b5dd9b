"""`everest demo` and `everest run`: the chain on this machine, ending in a table and what to do next."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import preflight
from pipeline.errors import BudgetSpentError, EverestError, InputError, Interrupted
from pipeline.experiments.stage import only_one
from pipeline.layout import WORK, output_dir
from pipeline.params import load_params
from pipeline.system import dvc_locks
from pipeline.system.processes import STOPPED, run_child
from pipeline.system.progress import Line

if TYPE_CHECKING:
    from pipeline.report.collect import Summary
    from pipeline.report.comparison import Summary as Compared

_QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}


#: Summary of the report, outcome of each stage, seconds in all, summary of the comparison or None.
Results = tuple["Summary", dict[str, str], float, "Compared | None"]


def run_demo() -> Results:
    """Run the demo recipe, then the small comparison that it describes.

    Raises:
        InputError: params.yaml holds another recipe, or a wrong value.
    """
    recipe = load_params().recipe
    if recipe != "demo":
        raise InputError(
            f"params.yaml holds recipe {recipe!r}, and the demo needs 'demo'. "
            "Cure: `everest run` for this one, or `everest recipe use demo`."
        )
    return run_experiment(compare=True)


def run_experiment(compare: bool = False) -> Results:
    """Run params.yaml through Prefect, DVC and MLflow in this checkout."""
    params = load_params()
    warnings = preflight.require(preflight.chain_scope(params, compare=compare), preflight.CHECKS + preflight.SERVICES)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from pipeline.system.terminal import say

    for warning in warnings:
        say(f"warning: {warning}")
    with only_one("experiment"):  # before the wait: a second start would wait for the first one's stage, then fail
        dvc_locks.wait_until_free(say)
        started = time.monotonic()
        say(
            f"Recipe {params.recipe}: {', '.join(params.benchmarks)}. "
            "Ctrl-C saves and stops; the same command continues."
        )
        outcomes = _run_flow(compare)
        seconds = time.monotonic() - started
    summary = json.loads((output_dir("report") / "summary.json").read_text())
    compared = json.loads((output_dir("compare") / "summary.json").read_text()) if compare else None
    return summary, outcomes, seconds, compared


def _run_flow(compare: bool) -> dict[str, str]:
    """Run `flows.local` as a program of its own: pipeline/ knows nothing of flows/."""
    answer = WORK / "outcomes.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "flows.local", str(answer)]
    if compare:
        command.append("--compare")
    Line().show("Prefect starts", now=True)
    code = run_child(command, shares_stdout=True)
    if code in STOPPED:
        raise Interrupted("stopped; everything done so far is kept. The same command continues.")
    if code:
        raise _failure(answer, code)
    return dict(json.loads(answer.read_text()))


def _failure(answer: Path, code: int) -> EverestError:
    """Why the flow did not finish: its own word, or how its process ended where it left none."""
    if answer.exists():
        kind = BudgetSpentError if code == BudgetSpentError.exit_code else EverestError
        error = kind(json.loads(answer.read_text())["error"])
        error.exit_code = code
        return error
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return EverestError(
        f"the flow's process {how} and left no word: by hand, or for want of memory (`dmesg` says so). "
        f"Cure: the same command continues; what is finished is kept. Its log: {answer.with_name('flow.log')}"
    )
