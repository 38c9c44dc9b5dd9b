"""What reaches the server, asked of a store that only writes down what it is told."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.folder import Remote, RunFolder, RunRecord
from pipeline.tracking.store import StoreError
from pipeline.tracking.sync import command
from pipeline.tracking.upload import Uploader, drain, tidy, unsent

ABOUT: RunRecord = {"kind": "stage", "experiment": "e", "name": "n", "parent": None, "tags": {}}


class Notebook:
    """In place of the server: `calls` by name; those named in `failing` raise."""

    def __init__(self, uri: str = "here", run: str = "run-1") -> None:
        self.uri, self.run = uri, run
        self.calls: list[tuple[str, Any]] = []
        self.failing: dict[str, StoreError] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> str:
            if name in self.failing:
                raise self.failing[name]
            self.calls.append((name, arguments))
            return self.run

        return call

    def named(self, name: str) -> list[Any]:
        return [arguments for each, arguments in self.calls if each == name]


@pytest.fixture
def folder(project: Path) -> RunFolder:
    return RunFolder.create(ABOUT)


@pytest.fixture
def store() -> Any:
    return Notebook()


def test_a_run_is_made_once_and_each_record_is_sent_once(folder: RunFolder, store: Any) -> None:
    for step in range(2):
        with folder.records() as records:
            records.metrics({"a": float(step)}, step)
        assert drain(folder, store)
    assert len(store.named("create_run")) == 1
    assert [[point[:2] for point in points] for _, points in store.named("metrics")] == [[("a", 0.0)], [("a", 1.0)]]


def test_steps_that_a_resumed_training_made_again_are_left_out(folder: RunFolder, store: Any) -> None:
    with folder.records() as records:
        for step in (1, 2, 3, 2, 3, 4):
            records.metrics({"a": float(step)}, step)
    drain(folder, store)
    ((_, points),) = store.named("metrics")
    assert [(value, step) for _, value, _, step in points] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_summary_ends_its_names_curve_also_when_it_is_sent_later(folder: RunFolder, store: Any) -> None:
    with folder.records() as records:
        records.metrics({"val/top1": 0.9}, 2)
        records.metrics({"val/top1": 0.6}, 4)
    drain(folder, store)
    with folder.records() as records:
        records.metrics({"val/top1": 0.9, "eval/top1": 0.8})
    drain(folder, store)
    points = [point for _, points in store.named("metrics") for point in points]
    assert [(name, value, step) for name, value, _, step in points] == [
        ("val/top1", 0.9, 2),
        ("val/top1", 0.6, 4),
        ("val/top1", 0.9, 4),
        ("eval/top1", 0.8, 0),
    ]


def test_the_status_is_sent_after_all_records_and_only_then_is_a_run_tidied_away(folder: RunFolder, store: Any) -> None:
    with folder.records() as records:
        records.tags({"x": "1"})
    folder.update(status="FINISHED", ended=7)
    tidy(folder)
    assert folder.path.exists(), "nothing of it is sent"
    drain(folder, store)
    assert [name for name, _ in store.calls][-2:] == ["tags", "status"]
    assert store.named("status") == [("run-1", "FINISHED", 7)]
    tidy(folder)
    assert not folder.path.exists()


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_can_be_continued_stays(folder: RunFolder, store: Any, status: str) -> None:
    folder.update(status=status, ended=7)
    drain(folder, store)
    tidy(folder)
    assert folder.path.exists()


def test_a_record_that_the_server_will_never_take_is_noted_and_the_next_ones_are_sent(
    folder: RunFolder, store: Any
) -> None:
    with folder.records() as records:
        records.params({"p": "1"})
        records.tags({"x": "1"})
    store.failing["params"] = StoreError("too long", permanent=True)
    drain(folder, store)
    assert folder.remote()["refused"] == ["too long"]
    assert ("run-1", {"x": "1"}) in store.named("tags")


def test_a_server_that_dies_keeps_what_it_has_and_the_rest_waits(folder: RunFolder, store: Any) -> None:
    with folder.records() as records:
        records.metrics({"a": 1.0}, 1)
    store.failing["metrics"] = StoreError("dead")
    with pytest.raises(StoreError, match="dead"):
        drain(folder, store)
    assert (folder.remote()["run_id"], unsent([folder])) == ("run-1", 1)
    store.failing.clear()
    drain(folder, store)
    assert unsent([folder]) == 0


def test_a_disk_that_is_full_for_a_while_does_not_end_the_sending(
    folder: RunFolder, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, write = [True], RunFolder.write_remote

    def write_remote(self: RunFolder, values: Remote) -> None:
        if full and full.pop():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, values)

    monkeypatch.setattr(RunFolder, "write_remote", write_remote)
    monkeypatch.setattr("pipeline.tracking.store.Store", lambda: store)
    monkeypatch.setattr("pipeline.tracking.upload.PERIOD", 0.02)
    with folder.records() as records:
        records.metrics({"a": 1.0}, 1)
    uploader = Uploader([folder])
    uploader.start()
    until = time.monotonic() + 20
    while not folder.sent() and time.monotonic() < until:
        time.sleep(0.01)
    assert (folder.sent(), uploader.finish(20), uploader.failure) == (True, True, None)


def test_another_server_gets_a_run_of_its_own_from_the_beginning(folder: RunFolder, store: Any) -> None:
    with folder.records() as records:
        records.metrics({"a": 1.0}, 1)
    drain(folder, store)
    other: Any = Notebook("there")
    drain(folder, other)
    assert len(other.named("create_run")) == len(other.named("metrics")) == 1


class Restored(Notebook):
    """A server that no longer has run-1."""

    def has_run(self, run: str) -> bool:
        return run != "run-1"

    def metrics(self, run: str, points: object) -> None:
        self._of(run, "metrics", points)

    def status(self, run: str, status: str, ended: int | None) -> None:
        self._of(run, "status", status)

    def _of(self, run: str, name: str, value: object) -> None:
        if not self.has_run(run):
            raise StoreError(f"RESOURCE_DOES_NOT_EXIST: {run}", permanent=True)
        self.calls.append((name, (run, value)))


@pytest.mark.parametrize("since", ["a record", "only its end"])
def test_a_run_that_the_server_has_no_longer_is_sent_anew_from_the_beginning(
    folder: RunFolder, store: Any, since: str
) -> None:
    with folder.records() as records:
        records.metrics({"a": 1.0}, 1)
    drain(folder, store)
    if since == "a record":
        with folder.records() as records:
            records.metrics({"a": 2.0}, 2)
    folder.update(status="FAILED", ended=7)
    other: Any = Restored(run="run-2")
    drain(folder, other)
    values = [point[1] for _, points in other.named("metrics") for point in points]
    assert values == ([1.0, 2.0] if since == "a record" else [1.0])
    assert other.named("status") == [("run-2", "FAILED")]
    assert (folder.remote()["run_id"], folder.remote().get("refused"), folder.sent()) == ("run-2", None, True)


def test_a_run_that_was_deleted_on_the_page_is_not_asked_to_end_for_ever(folder: RunFolder, store: Any) -> None:
    store.failing["status"] = StoreError("INVALID_PARAMETER_VALUE: must be in the 'active' state", permanent=True)
    folder.update(status="FINISHED", ended=7)
    drain(folder, store)
    assert folder.sent()


def test_a_run_that_can_never_be_sent_does_not_hold_up_those_behind_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, live = RunFolder.create({**ABOUT, "experiment": "other"}), RunFolder.create(ABOUT)
    for each in (folder, behind):
        each.update(status="FAILED", ended=7, owner=None)

    class Refuses(Notebook):
        def create_run(self, experiment: str, *rest: object) -> str:
            if experiment == "e":
                raise StoreError("INVALID_STATE: the experiment was deleted", permanent=True)
            return "run-2"

    monkeypatch.setattr("pipeline.tracking.store.Store", Refuses)
    Uploader([live])._send_left_behind(Refuses())  # type: ignore[arg-type]
    assert behind.sent()
    behind.update(status="KILLED")
    said = command()
    assert behind.sent()
    assert said["refused"] == [f"run {each.id}: INVALID_STATE: the experiment was deleted" for each in (folder, live)]


def test_a_child_waits_for_its_parents_id_on_the_server(folder: RunFolder, store: Any) -> None:
    child = RunFolder.create({**ABOUT, "parent": folder.id})
    drain(child, store)
    assert [arguments[1] for arguments in store.named("create_run")] == [folder.id, child.id], "the parent first"
    assert store.named("create_run")[1][4]["mlflow.parentRunId"] == "run-1"


def test_a_child_on_another_server_has_its_parents_id_there(folder: RunFolder, store: Any) -> None:
    drain(folder, store)
    other: Any = Notebook("there", run="run-2")
    drain(RunFolder.create({**ABOUT, "parent": folder.id}), other)
    assert [arguments[4].get("mlflow.parentRunId") for arguments in other.named("create_run")] == [None, "run-2"]


def test_a_run_that_another_process_sends_is_left_to_it(folder: RunFolder, store: Any) -> None:
    with folder.upload_lock():
        assert not drain(folder, store)
    assert store.calls == []
