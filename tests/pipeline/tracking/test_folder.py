"""One run on disk: its record, what the server has of it, who owns it, and taking over another run's records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.tracking.folder import RunFolder, RunRecord, all_runs, is_alive, process_identity, runs_dir
from pipeline.tracking.spool import read_records

ABOUT: RunRecord = {"kind": "stage", "experiment": "e", "name": "n", "parent": None, "tags": {}}


def test_a_new_run_is_running_and_belongs_to_this_process(project: Path) -> None:
    about = RunFolder.create(ABOUT).about()
    assert (about["status"], about["owner"]["pid"]) == ("RUNNING", os.getpid())
    assert is_alive(about["owner"])


def test_an_update_changes_what_it_names_and_leaves_the_rest(project: Path) -> None:
    folder = RunFolder.create(ABOUT)
    before = folder.about()
    folder.update(status="FAILED", ended=5)
    assert folder.about() == before | {"status": "FAILED", "ended": 5}


@pytest.mark.parametrize("text", ["", "{", "[1]", "nothing"])
def test_a_record_that_a_crash_tore_reads_as_none(project: Path, text: str) -> None:
    folder = RunFolder.create(ABOUT)
    (folder.path / "run.json").write_text(text)
    assert folder.about() == {}


def test_parents_come_before_their_stages_whenever_they_began(project: Path) -> None:
    parent = RunFolder.create({**ABOUT, "name": "parent"})
    child = RunFolder.create({**ABOUT, "parent": parent.id})
    parent.update(started=child.about()["started"] + 10)
    assert [folder.id for folder in all_runs()] == [parent.id, child.id]


def test_a_run_is_sent_when_the_server_has_its_records_and_its_status(project: Path) -> None:
    folder = RunFolder.create(ABOUT)
    with folder.records() as records:
        records.metrics({"a": 1.0}, 1)
    size = folder.spool.stat().st_size
    assert not folder.sent()
    folder.write_remote({"run_id": "r", "offset": size - 1, "status": "RUNNING"})
    assert not folder.sent(), "a record waits"
    folder.write_remote({"run_id": "r", "offset": size, "status": "RUNNING"})
    assert folder.sent()
    folder.update(status="FINISHED")
    assert not folder.sent(), "the server does not know that it ended"


def test_only_one_at_a_time_sends_a_run_and_none_sends_a_removed_one(project: Path) -> None:
    folder = RunFolder.create(ABOUT)
    with folder.upload_lock() as mine, folder.upload_lock() as second:
        assert (mine, second) == (True, False)
    folder.remove()
    with folder.upload_lock() as mine:
        assert not mine


def test_runs_lie_where_the_environment_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_dir() == project / ".work" / "runs"
    monkeypatch.setenv("EVEREST_RUNS", str(project / "elsewhere"))
    assert RunFolder.create(ABOUT).path.parent == project / "elsewhere"


def test_a_process_of_another_machine_is_taken_to_live_and_one_of_another_boot_is_not() -> None:
    me = process_identity(os.getpid())
    assert is_alive({**me, "host": "another", "pid": -1})
    assert not is_alive({**me, "boot": "another"})
    assert not is_alive({**me, "start": 1})


def test_records_of_another_run_are_taken_over_with_their_times_and_files_but_no_models(project: Path) -> None:
    earlier, later = RunFolder.create(ABOUT), RunFolder.create(ABOUT)
    (project / "model").mkdir()
    with earlier.records() as records:
        records.metrics({"a": 1.0}, 1)
        records.text("seed: 0\n", "params.yaml", "code")
        records.model(project / "model", "m", {})
    with earlier.spool.open("a") as file:
        file.write('{"k": "m", "t"')  # torn by a crash
    later.copy_records(earlier)
    (metrics, text) = read_records(later.spool)[0]
    assert [metrics, text] == read_records(earlier.spool)[0][:2]
    assert (later.path / text["path"]).read_text() == "seed: 0\n"
