"""Runs that were deleted on MLflow's page: it keeps them, with their artifacts, until they are purged.

Not by `mlflow gc`: told of one run, it also purges every deleted experiment with its runs, and every deleted model, of
whatever age.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.system.redact import redact
from pipeline.tracking.store import Store, StoreError

if TYPE_CHECKING:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore


@dataclass(frozen=True)
class DeletedRun:
    """`deleted`: when, in seconds since 1970."""

    id: str
    name: str
    deleted: float


def deleted_runs(store: Store, before: float) -> list[DeletedRun]:
    """The runs that were deleted before a time, in seconds since 1970, the first one first.

    Raises:
        StoreError: the store is a server's, which does not tell when a run was deleted, or does not answer.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun

    database = _database(store)

    def ask() -> list[DeletedRun]:
        with database.ManagedSessionMaker() as session:
            old = session.query(SqlRun.run_uuid, SqlRun.name, SqlRun.deleted_time).filter(
                SqlRun.lifecycle_stage == "deleted", SqlRun.deleted_time < before * 1000
            )
            return [DeletedRun(run, name, at / 1000) for run, name, at in old.order_by(SqlRun.deleted_time)]

    return store._call(ask)


def purge(store: Store, run: str, server: str) -> None:
    """Remove a deleted run for good, and its artifacts: nothing else.

    Args:
        server: MLFLOW_TRACKING_URI: artifacts at mlflow-artifacts: are reached by way of that server.

    Raises:
        StoreError: it is no longer deleted, its artifacts cannot be removed, or the store is a server's.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    database = _database(store)
    info = store._call(lambda: store.client.get_run(run)).info
    if info.lifecycle_stage != "deleted":
        raise StoreError(f"{run} is not deleted any more. Cure: none is needed.")
    try:
        get_artifact_repository(info.artifact_uri, server).delete_artifacts()
    except Exception as error:  # whatever the library of the store that holds them raises
        raise StoreError(
            f"the artifacts of {run} at {redact(info.artifact_uri)} cannot be removed ({redact(str(error))[:300]}), so "
            "that it stays. Cure: mend what it names; mlflow-artifacts: wants its server in MLFLOW_TRACKING_URI."
        ) from error
    store._call(lambda: database._hard_delete_run(run))


def _database(store: Store) -> SqlAlchemyStore:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database = store.client._tracking_client.store
    if not isinstance(database, SqlAlchemyStore):
        raise StoreError(
            f"{redact(store.uri)} is a server: its database purges deleted runs. Cure: `everest ops gc` where that is."
        )
    return database
