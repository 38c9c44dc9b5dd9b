"""The data alone: fetch, verify and cache the videos, so that a training finds them ready."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.artifacts import publish_stages
from flows.chain.elsewhere import made_for
from flows.chain.run import run_stages, task_runner
from flows.chain.stages import data_chain
from flows.isolated import isolated
from flows.names import run_name
from flows.overrides import Overrides


@flow(name="data", flow_run_name=run_name, task_runner=task_runner(), validate_parameters=True)
def data(
    recipe: str | None = None,
    overrides: Overrides = {},  # noqa: B006
    for_run: str | None = None,
) -> dict[str, object]:
    """Bring a recipe's manifests, caches and corpora up to date in the shared DVC cache.

    Args:
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys of params.yaml, for example `{"preprocess.store": "jpeg"}`.
        for_run: the id of a run, perhaps in another checkout, that waits for them: they go to DVC's default remote too.
    """
    with (
        made_for(for_run, Path.cwd()) as handed,
        isolated(recipe, overrides, ("download", "preprocess", "corpus")) as place,
    ):
        stages = data_chain(place.params)
        outcomes = run_stages(stages, place.params, place.where)
        handed(place.where, stages)
    publish_stages(outcomes, place)
    return {"stages": outcomes}
