"""Deleted runs are purged by when they were deleted, each alone: what else was deleted stays as long as it may."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from pipeline.tracking.store import Store, StoreError
from pipeline.tracking.store.deleted import deleted_runs, purge

DAY = 86400.0


@pytest.fixture
def store(migrated: Path, tmp_path: Path) -> Store:
    shutil.copyfile(migrated, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def ask(store: Store, query: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        return database.execute(query, values).fetchall()


def make(store: Store, experiment: str, name: str, tmp_path: Path) -> str:
    """A run that ended long ago, with an artifact."""
    run = store.create_run(experiment, name, name, 0, {})
    (tmp_path / "notes.txt").write_text(name)
    store.artifact(run, tmp_path / "notes.txt", "")
    store.status(run, "FINISHED", 1)
    return run


def delete(store: Store, run: str, days: float) -> None:
    store.client.delete_run(run)
    ask(store, "update runs set deleted_time = ? where run_uuid = ?", int((time.time() - days * DAY) * 1000), run)


def test_a_purge_takes_the_run_that_was_deleted_long_ago_and_nothing_else(store: Store, tmp_path: Path) -> None:
    old, lately, kept = (make(store, "kept", name, tmp_path) for name in ("old", "lately", "kept"))
    of_experiment = make(store, "by mistake", "of a deleted experiment", tmp_path)
    model = store.client.create_logged_model(store.experiment("kept"), name="model", source_run_id=old).model_id
    store.client.delete_logged_model(model)
    delete(store, old, 31)
    delete(store, lately, 29)
    store.client.delete_experiment(store.experiment("by mistake"))
    (run,) = deleted_runs(store, time.time() - 30 * DAY)
    assert (run.id, run.name) == (old, "old")
    assert time.time() - run.deleted == pytest.approx(31 * DAY, abs=60)
    places = {run: Path(store.client.get_run(run).info.artifact_uri.removeprefix("file://")) for run in (old, lately)}
    purge(store, old, store.uri)
    assert {run for (run,) in ask(store, "select run_uuid from runs")} == {lately, kept, of_experiment}
    assert {run: place.exists() for run, place in places.items()} == {old: False, lately: True}
    assert ask(store, "select lifecycle_stage from experiments where name = 'by mistake'") == [("deleted",)]
    assert ask(store, "select model_id from logged_models") == [(model,)]


def test_more_deleted_runs_than_a_page_holds_are_all_found(store: Store, tmp_path: Path) -> None:
    delete(store, make(store, "many", "first", tmp_path), 31)
    columns = ", ".join(str(row[1]) for row in ask(store, "pragma table_info(runs)") if row[1] != "run_uuid")
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1500)"
    ask(store, f"{numbers} insert into runs (run_uuid, {columns}) select 'copy' || i, {columns} from runs, n")
    assert len(deleted_runs(store, time.time() - 30 * DAY)) == 1501


def test_a_run_that_was_restored_or_whose_artifacts_cannot_be_removed_stays(store: Store, tmp_path: Path) -> None:
    run = make(store, "e", "restored", tmp_path)
    with pytest.raises(StoreError, match="is not deleted any more"):
        purge(store, run, store.uri)
    delete(store, run, 31)
    ask(store, "update runs set artifact_uri = 'mlflow-artifacts:/1/x/artifacts'")
    with pytest.raises(StoreError, match=r"artifacts of .* at mlflow-artifacts:/1/x/artifacts cannot be removed"):
        purge(store, run, store.uri)
    assert [run.name for run in deleted_runs(store, time.time())] == ["restored"]
