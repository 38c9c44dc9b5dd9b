"""The main flow: every stage of an experiment in order, each as one DVC stage in a child process.

DVC owns what is stale, Prefect owns time and order: a task asks DVC for its stage and reports what DVC did. Nothing
heavy is imported here, so a worker needs neither a GPU nor torch.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import worktree
from flows.guard import Children, guard
from flows.overrides import Overrides
from flows.repro import Outcome, Workspace, repro, training_turn, workspace
from flows.stages import Stage, chain
from pipeline.errors import InputError
from pipeline.params import Params, load_params

#: Stages that decode videos use all cores by themselves; more than two at once only take memory.
PARALLEL_STAGES = 2


@task(name="stage", task_run_name="{stage.name}", cache_policy=NO_CACHE)
def run_stage(stage: Stage, where: Workspace, children: Children) -> State[Any]:
    """Bring one DVC stage up to date; completes as "Cached" when there was nothing to compute."""
    if stage.trains:
        with training_turn(where.folder):
            outcome = repro(stage.name, where, children)
    else:
        outcome = repro(stage.name, where, children)
    if outcome is Outcome.RAN:
        return Completed(message=f"{stage.name} ran", data=outcome.value)
    return Completed(name="Cached", message=f"{stage.name} was {outcome.value}", data=outcome.value)


def run_chain(params: Params, where: Workspace) -> dict[str, str]:
    """Run all stages, independent ones side by side; the first failure stops what has not begun.

    Returns:
        stage name -> ran, restored or unchanged.
    """
    # Only a fetch meets a flaky world: nothing else is tried twice.
    fetch = run_stage.with_options(retries=2, retry_delay_seconds=10)
    futures: dict[str, Any] = {}
    with guard() as children:
        for stage in chain(params):
            submit = fetch if stage.fetches and _is_remote(params, stage) else run_stage
            waits = [futures[name] for name in stage.after]
            futures[stage.name] = submit.submit(stage, where, children, wait_for=waits)
        return {name: future.result() for name, future in futures.items()}


@flow(
    name="experiment",
    flow_run_name="{recipe}",
    task_runner=ThreadPoolTaskRunner(max_workers=PARALLEL_STAGES),
    validate_parameters=True,
)
def experiment(recipe: str | None = None, overrides: Overrides = {}) -> dict[str, Any]:  # noqa: B006
    """Run a recipe from videos to report in a worktree of the last commit.

    Args:
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys of params.yaml, for example `{"finetune.epochs": 2}`.
    """
    root = Path.cwd()
    params = _check(root, recipe, overrides)
    logger = get_run_logger()
    if note := worktree.left_behind(root):
        logger.warning(note)
    name = str(flow_run.id or "manual")
    folder = worktree.create(root, name, recipe, overrides)
    where = workspace(folder, name, worktree.environment(root) | _identity(name), on_terminal=False)
    logger.info("%s runs in %s", params.recipe, folder)
    outcomes = run_chain(params, where)
    kept = root / "reports" / name
    shutil.copytree(folder / "outputs" / "report", kept, dirs_exist_ok=True)
    worktree.remove(root, folder)
    summary = json.loads((kept / "summary.json").read_text())
    _publish(summary, outcomes, kept)
    return {"report": str(kept / "report.html"), "stages": outcomes}


@flow(name="local", task_runner=ThreadPoolTaskRunner(max_workers=PARALLEL_STAGES))
def local(on_terminal: bool = True) -> dict[str, str]:
    """Run params.yaml as it stands, in this checkout: what `everest demo` and `everest run` start."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    name = str(flow_run.id or "manual")
    return run_chain(params, workspace(root, name, _identity(name), on_terminal))


def _check(root: Path, recipe: str | None, overrides: dict[str, Any]) -> Params:
    source = root / "recipes" / f"{recipe}.yaml" if recipe else root / "params.yaml"
    if recipe and not source.exists():
        names = ", ".join(sorted(path.stem for path in (root / "recipes").glob("*.yaml")))
        raise InputError(f"recipe = {recipe!r} is not in recipes/. Cure: use one of: {names}.")
    return load_params(source, overrides)


def _identity(name: str) -> dict[str, str]:
    return {"EVEREST_EXPERIMENT": name, "EVEREST_PREFECT_RUN": name}


def _is_remote(params: Params, stage: Stage) -> bool:
    return params.benchmarks[stage.name.split("@")[1]].data.source.kind == "official"


def _publish(summary: dict[str, Any], outcomes: dict[str, str], kept: Path) -> None:
    create_table_artifact(key="results", table=summary["results"], description=f"Report: {kept / 'report.html'}")
    lines = ["| stage | DVC |", "|---|---|", *(f"| {name} | {what} |" for name, what in outcomes.items())]
    create_markdown_artifact(key="stages", markdown="\n".join(lines), description=os.fspath(kept))
