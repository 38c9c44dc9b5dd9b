"""The data alone: fetch, verify and cache the videos, so that a training finds them ready."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import publish_stages
from flows.chain.run import run_stages, task_runner
from flows.chain.stages import data_chain
from flows.isolated import isolated
from flows.names import run_name
from flows.overrides import Overrides


@flow(name="data", flow_run_name=run_name, task_runner=task_runner(), validate_parameters=True)
def data(recipe: str | None = None, overrides: Overrides = {}) -> dict[str, object]:  # noqa: B006
    """Bring a recipe's manifests, caches and corpora up to date in the shared DVC cache.

    Args:
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys of params.yaml, for example `{"preprocess.store": "jpeg"}`.
    """
    with isolated(recipe, overrides, ("download", "preprocess", "corpus")) as place:
        outcomes = run_stages(data_chain(place.params), place.params, place.where)
    publish_stages(outcomes, place)
    return {"stages": outcomes}
