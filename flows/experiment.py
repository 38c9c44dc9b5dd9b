"""The main flow: every stage of an experiment in order, each as one DVC stage in a child process.

DVC owns what is stale, Prefect owns time and order: a task asks DVC for its stage and reports what DVC did. Nothing
heavy is imported here, so a worker needs neither a GPU nor torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from prefect import flow

from flows.artifacts import publish_results, publish_stages
from flows.chain.elsewhere import data_source
from flows.chain.run import run_stages, task_runner
from flows.chain.stages import chain, made_at
from flows.isolated import isolated
from flows.names import run_name
from flows.overrides import Overrides


@flow(name="experiment", flow_run_name=run_name, task_runner=task_runner(), validate_parameters=True)
def experiment(
    recipe: str | None = None,
    overrides: Overrides = {},  # noqa: B006
    data_on: str | None = None,
) -> dict[str, object]:
    """Run a recipe from videos to report in a worktree of the last commit.

    Args:
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys of params.yaml, for example `{"finetune.epochs": 60}`.
        data_on: a deployment that makes the data on workers of another pool: `data/cpu`; this run if left out.
    """
    source = data_source(data_on, recipe, overrides, Path.cwd())
    with isolated(recipe, overrides, source.checked) as place:
        stages = made_at(source.origin, chain(place.params))
        outcomes = run_stages(stages, place.params, place.where, source.make)
        kept = place.keep("report")
    results = json.loads((kept / "summary.json").read_text())["results"]
    publish_results(results, kept / "report.html")
    publish_stages(outcomes, place)
    return {"report": str(kept / "report.html"), "stages": outcomes, "results": results}
