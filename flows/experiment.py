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

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from flows import worktree
from flows.overrides import Overrides
from flows.repro import workspace
from flows.run import identity, run_chain, task_runner
from pipeline.errors import InputError
from pipeline.params import Params, load_params


@flow(
    name="experiment",
    flow_run_name="{recipe}",
    task_runner=task_runner(),
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
    where = workspace(folder, name, worktree.environment(root) | identity(name), on_terminal=False)
    logger.info("%s runs in %s", params.recipe, folder)
    outcomes = run_chain(params, where)
    kept = root / "reports" / name
    shutil.copytree(folder / "outputs" / "report", kept, dirs_exist_ok=True)
    worktree.remove(root, folder)
    summary = json.loads((kept / "summary.json").read_text())
    _publish(summary, outcomes, kept)
    return {"report": str(kept / "report.html"), "stages": outcomes}


def _check(root: Path, recipe: str | None, overrides: dict[str, Any]) -> Params:
    source = root / "recipes" / f"{recipe}.yaml" if recipe else root / "params.yaml"
    if recipe and not source.exists():
        names = ", ".join(sorted(path.stem for path in (root / "recipes").glob("*.yaml")))
        raise InputError(f"recipe = {recipe!r} is not in recipes/. Cure: use one of: {names}.")
    return load_params(source, overrides)


def _publish(summary: dict[str, Any], outcomes: dict[str, str], kept: Path) -> None:
    create_table_artifact(key="results", table=summary["results"], description=f"Report: {kept / 'report.html'}")
    lines = ["| stage | DVC |", "|---|---|", *(f"| {name} | {what} |" for name, what in outcomes.items())]
    create_markdown_artifact(key="stages", markdown="\n".join(lines), description=os.fspath(kept))
