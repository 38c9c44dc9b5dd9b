"""What the tracking server gives: runs, versions of models, and its failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from pipeline.errors import EverestError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


class TrackedRun(TypedDict):
    """A run on the server: times in ms, `inputs` content hashes by the name of the data."""

    id: str
    name: str
    status: str
    experiment: str
    start: int
    end: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    inputs: dict[str, str]


class RegisteredVersion(TypedDict):
    """A version of a registered model; `source` is where its files lie."""

    name: str
    version: str
    run: str | None
    source: str | None
    tags: dict[str, str]
    aliases: list[str]
    model_id: str | None


class StoreError(EverestError):
    """A call to the tracking server failed; `permanent` where the same call can never succeed."""

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def tracked_run(run: Run) -> TrackedRun:
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "experiment": run.info.experiment_id,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": dict(run.data.tags),
        "inputs": {i.dataset.name: i.dataset.digest for i in (run.inputs.dataset_inputs if run.inputs else [])},
    }


def registered_version(version: ModelVersion) -> RegisteredVersion:
    return {
        "name": version.name,
        "version": str(version.version),
        "run": version.run_id,
        "source": version.source,
        "tags": dict(version.tags),
        "aliases": list(version.aliases or []),
        "model_id": getattr(version, "model_id", None),
    }
