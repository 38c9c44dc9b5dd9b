"""Strategies side by side at equal cost: the data stages, then the comparison that params.yaml describes."""

from __future__ import annotations

import json
from pathlib import Path

from prefect import flow

from flows.artifacts import publish_differences, publish_results, publish_sentences, publish_stages
from flows.chain.elsewhere import data_source
from flows.chain.run import run_stages, task_runner
from flows.chain.stages import comparison_chain, made_at
from flows.isolated import isolated
from flows.names import run_name
from flows.overrides import Overrides


@flow(name="compare", flow_run_name=run_name, task_runner=task_runner(), validate_parameters=True)
def compare(
    recipe: str | None = None,
    overrides: Overrides = {},  # noqa: B006
    data_on: str | None = None,
) -> dict[str, object]:
    """Compare pre-training strategies in a worktree of the last commit.

    Finished trainings are shared by all comparisons of this checkout, so a stopped one loses none.

    Args:
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys of params.yaml, for example `{"compare.strategies": ["everest", "tube"]}`.
        data_on: a deployment that makes the data on workers of another pool: `data/cpu`; this run if left out.
    """
    source = data_source(data_on, recipe, overrides, Path.cwd())
    with isolated(recipe, overrides, source.checked) as place:
        stages = made_at(source.origin, comparison_chain(place.params))
        outcomes = run_stages(stages, place.params, place.where, source.make)
        kept = place.keep("compare")
    summary = json.loads((kept / "summary.json").read_text())
    publish_results(summary["results"], kept / "report.html")
    publish_differences(summary["differences"], kept / "report.html")
    publish_sentences(summary["sentences"], kept / "report.html")
    publish_stages(outcomes, place)
    return {"report": str(kept / "report.html"), "stages": outcomes, "differences": summary["differences"]}
