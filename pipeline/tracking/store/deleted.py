"""Runs that were deleted on MLflow's page: it keeps them, with their artifacts, until they are purged."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.store import Store, StoreError


@dataclass(frozen=True)
class DeletedRun:
    """`ended`: seconds since 1970."""

    id: str
    name: str
    ended: float


def deleted_runs(store: Store, before: float) -> list[DeletedRun]:
    """The deleted runs that ended before a time, in seconds since 1970."""
    from mlflow.entities import ViewType

    every = store._call(lambda: store.client.search_experiments(view_type=ViewType.ALL))
    ids = [experiment.experiment_id for experiment in every]
    deleted = store._call(lambda: store.client.search_runs(ids, run_view_type=ViewType.DELETED_ONLY, max_results=1000))
    runs = [(run, (run.info.end_time or run.info.start_time) / 1000) for run in deleted]
    return [DeletedRun(run.info.run_id, str(run.info.run_name), ended) for run, ended in runs if ended < before]


def purge(store: Store, run: str) -> None:
    """Remove a deleted run for good, and its artifacts.

    Raises:
        StoreError: MLflow refuses, or the store is a server's: only whoever has its database can.
    """
    if store.uri.startswith("http"):
        raise StoreError(
            f"{store.uri} is a server: it is purged where its database is. Cure: there, `mlflow gc --run-ids {run} "
            "--backend-store-uri ...`, or `everest ops gc` with MLFLOW_TRACKING_URI set to the database."
        )
    command = [str(Path(sys.executable).with_name("mlflow")), "gc", "--backend-store-uri", store.uri, "--run-ids", run]
    done = subprocess.run(
        command, env={**os.environ, "MLFLOW_TRACKING_URI": store.uri}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StoreError(f"mlflow gc failed: {done.stderr.strip()[-400:]}. Cure: see what it names.")
