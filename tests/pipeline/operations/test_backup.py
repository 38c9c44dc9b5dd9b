"""A backup is whole although others write; what comes back is what was there; anything else is refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from postgres_cluster import PASSWORD, postgres
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import EverestError, InputError
from pipeline.operations import databases as databases_module
from pipeline.operations.addresses import PREFECT, Databases, databases, on_postgres
from pipeline.operations.backup import backup, check, left_out, restore
from pipeline.operations.postgres import prepare
from pipeline.tracking.folder import RunFolder, RunRecord
from pipeline.tracking.store import Store
from pipeline.tracking.upload import drain

HOLDS = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1])
database.execute("select * from flow_run")
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with parameters and two databases."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "EVEREST_DATABASE", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(root / "prefect"))
    (root / "params.yaml").write_text("recipe: demo\n")
    (root / "recipes").mkdir()
    (root / "recipes" / "own.yaml").write_text("recipe: own\n")
    (root / "prefect").mkdir()
    for name in ("prefect/prefect.db", "mlflow.db"):
        with sqlite3.connect(root / name) as database:
            database.execute("create table flow_run (id integer primary key, name text)")
            database.execute("insert into flow_run (name) values ('demo')")
    return root


@pytest.fixture
def of(project: Path) -> Databases:
    return databases(project)


@pytest.fixture
def report(project: Path) -> Path:
    (project / "reports").mkdir()
    file = project / "reports" / "one.html"
    file.write_text("as it was")
    return file


def test_what_was_lost_comes_back_whole(project: Path, of: Databases, tmp_path: Path) -> None:
    (project / "mlflow.db").unlink()
    store = Store(of.mlflow)
    run = store.create_run("demo", "key", "first", 0, {})
    store.metrics(run, [("eval/top1", 0.83, 1, 1)])
    store.artifact(run, project / "params.yaml", "weights")
    made = backup(project, tmp_path / "backups", of)
    before = Store(of.mlflow).search()[0]
    for name in ("mlflow.db", "prefect/prefect.db", "recipes/own.yaml"):
        (project / name).unlink()
    artifact = next((project / "mlruns").rglob("params.yaml"))
    artifact.unlink()
    lines = restore(made, project, of)
    assert any("mlflow's database is as it was" in line for line in lines)
    store = Store(of.mlflow)
    assert store.search() == [before]
    assert before["metrics"] == {"eval/top1": 0.83}
    assert store.artifacts(before["id"]) == ["weights/params.yaml"]
    assert artifact.read_text() == "recipe: demo\n"
    assert (project / "recipes" / "own.yaml").read_text() == "recipe: own\n"
    prefect = sqlite3.connect(project / "prefect" / "prefect.db")
    assert prefect.execute("select name from flow_run").fetchall() == [("demo",)]


def test_what_was_tracked_since_the_backup_is_sent_again_and_no_record_is_lost(
    project: Path, of: Databases, tmp_path: Path, root: Path
) -> None:
    (project / "mlflow.db").unlink()

    def track(folder: RunFolder, *steps: int) -> None:
        with folder.records() as records:
            for step in steps:
                records.metrics({"train/loss": 1.0}, step)
        drain(folder, Store(of.mlflow))

    about: RunRecord = {"kind": "stage", "experiment": "demo", "parent": None, "tags": {}}
    before = RunFolder.create({**about, "name": "before"})
    track(before, 1)
    made = backup(project, tmp_path / "backups", of)
    track(before, 2)
    after = RunFolder.create({**about, "name": "after"})
    track(after, 1, 2)
    restore(made, project, of, force=True)
    # In another process: MLflow goes on with the file that it has open here.
    sync = "from pipeline.tracking.sync import command; command()"
    subprocess.run([sys.executable, "-c", sync], env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    with sqlite3.connect(project / "mlflow.db") as database:
        sent = database.execute("select name, step from runs join metrics using (run_uuid) order by name, step")
        assert sent.fetchall() == [("after", 1), ("after", 2), ("before", 1), ("before", 2)]


def test_files_are_put_in_the_place_of_others_and_equal_ones_stay(project: Path, of: Databases, tmp_path: Path) -> None:
    for name in ("equal", "changed"):
        report = project / "reports" / f"{name}.html"
        report.parent.mkdir(exist_ok=True)
        report.write_text("as it was")
        report.chmod(0o444)  # as published ones
    made = backup(project, tmp_path / "backups", of)
    changed, equal = project / "reports" / "changed.html", project / "reports" / "equal.html"
    changed.unlink()
    changed.write_text("newer")
    changed.chmod(0o444)
    (tmp_path / "linked.html").hardlink_to(changed)
    before = equal.stat().st_ino
    restore(made, project, of, force=True)
    assert changed.read_text() == "as it was"
    assert (tmp_path / "linked.html").read_text() == "newer", "the old file was written into"
    assert equal.stat().st_ino == before


def test_a_file_that_cannot_be_put_back_leaves_the_databases_as_they_are(
    project: Path, of: Databases, report: Path, tmp_path: Path
) -> None:
    made = backup(project, tmp_path / "backups", of)
    shutil.rmtree(report.parent)
    report.parent.write_text("a file where a folder was")
    (project / "mlflow.db").write_bytes(b"")
    with pytest.raises(EverestError, match="the databases are as they were. Cure"):
        restore(made, project, of, force=True)
    assert (project / "mlflow.db").read_bytes() == b""


def test_a_backup_says_which_artifacts_lie_elsewhere(project: Path, of: Databases, tmp_path: Path) -> None:
    (project / "mlflow.db").unlink()
    store = Store(of.mlflow)
    store.create_run("demo", "key", "first", 0, {})
    assert left_out(project, of) == [], "in mlruns, beside the database"
    store.create_run("other", "other", "second", 0, {})

    def said(place: str) -> list[str]:
        with sqlite3.connect(project / "mlflow.db") as database:
            database.execute("update experiments set artifact_location = ? || experiment_id", (place,))
        return [line.partition(" at ")[2].partition(" are not in it")[0] for line in left_out(project, of)]

    assert said("s3://me:secret@store/") == ["s3://store"], "once for both experiments"
    assert said("/srv/artifacts/") == ["/srv/artifacts"]
    assert said(f"file://{project}/mlartifacts/") == []
    assert said("mlflow-artifacts:/") == ["mlflow-artifacts:"]
    (project / "mlartifacts").mkdir()
    assert left_out(project, of) != [], "of another server's time"
    with sqlite3.connect(project / "mlflow.db") as database:
        for (number,) in database.execute("select experiment_id from experiments"):
            (project / "mlartifacts" / str(number)).mkdir()
    assert left_out(project, of) == [], "where `everest ui` has its server put them"
    shutil.rmtree(project / "mlartifacts")
    done = CliRunner().invoke(app, ["ops", "backup", str(tmp_path / "backups")])
    assert done.exit_code == 0, done.output
    assert "warning: registered models and other artifacts at mlflow-artifacts: are not in it" in done.output
    (project / "mlflow.db").unlink()
    sqlite3.connect(project / "mlflow.db").close()
    assert left_out(project, of) == [], "a database without MLflow's tables has no artifacts"


def test_a_backup_while_others_write_is_one_moment_of_the_database(
    project: Path, of: Databases, tmp_path: Path
) -> None:
    file = project / "prefect" / "prefect.db"
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        with sqlite3.connect(file, timeout=30) as database:
            database.execute("pragma journal_mode=wal")
            while not over.is_set():
                # Two rows in one transaction: a copy has both or neither.
                database.execute("insert into flow_run (name) values ('a'), ('b')")
                database.commit()
                begun.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            assert begun.wait(60)
            made = backup(project, tmp_path / "backups", of)
        finally:
            over.set()
        writer.result()
    with sqlite3.connect(made / "prefect.db") as copied:
        counts = dict(copied.execute("select name, count(*) from flow_run group by name"))
    assert counts["a"] == counts["b"] > 0


def test_records_that_are_sent_while_a_backup_is_made_are_in_it(
    project: Path, of: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the copy of the runs calls sent, the databases' copy has every record."""
    run = project / ".work" / "runs" / "4f1c"
    run.mkdir(parents=True)
    (run / "remote.json").write_text(json.dumps({"offset": 0}))
    names: list[str] = []

    def send(at: str) -> None:
        with sqlite3.connect(project / "mlflow.db") as database:
            database.execute("insert into flow_run (name) values (?)", (at,))
        names.append(at)
        (run / "remote.json").write_text(json.dumps({"offset": len(names)}))

    copytree, copy = shutil.copytree, databases_module.copy

    def copied_tree(source: Path, *rest: object, **more: object) -> None:
        send(f"before {source}")
        copytree(source, *rest, **more)
        send(f"after {source}")

    def copied(address: str, *rest: object) -> Path:
        send(f"before {address}")
        path = copy(address, *rest)
        send(f"after {address}")
        return path

    monkeypatch.setattr(shutil, "copytree", copied_tree)
    monkeypatch.setattr(databases_module, "copy", copied)
    made = backup(project, tmp_path / "backups", of)
    offset = json.loads((made / "files/.work/runs/4f1c/remote.json").read_text())["offset"]
    with sqlite3.connect(made / "mlflow.db") as database:
        there = {name for (name,) in database.execute("select name from flow_run")}
    assert len(names) > 4
    assert set(names[:offset]) <= there


@pytest.mark.parametrize("what", ["a folder", "a file"])
def test_what_vanishes_while_a_backup_is_made_does_not_end_it_and_what_cannot_be_read_does(
    project: Path, of: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for number in range(3):
        run = project / ".work" / "runs" / f"run{number}"
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
    gone = project / ".work" / "runs" / "run1"
    makedirs = os.makedirs

    def made_there(path: Path, exist_ok: bool = False) -> None:
        makedirs(path, exist_ok=exist_ok)
        # `copytree` has listed the folder's content by then, and copied none of it.
        if gone.exists() and Path(path).name == (gone.parent if what == "a folder" else gone).name:
            shutil.rmtree(gone) if what == "a folder" else (gone / "run.json").unlink()

    with monkeypatch.context() as patch:
        patch.setattr(os, "makedirs", made_there)
        made = backup(project, tmp_path / "backups", of)
    check(made)
    assert {path.parent.name for path in made.rglob("run.json")} == {"run0", "run2"}
    (project / "reports").mkdir()
    with socket.socket(socket.AF_UNIX) as served:  # a file that root cannot read either
        monkeypatch.chdir(project / "reports")
        served.bind("live")
        with pytest.raises(shutil.Error, match="live"):
            backup(project, tmp_path / "others", of)


def test_the_configuration_of_dvc_is_put_beside_as_all_parameters_are(
    project: Path, of: Databases, tmp_path: Path
) -> None:
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    remote = old\n")
    made = backup(project, tmp_path / "backups", of, artifacts=False)
    (project / ".dvc" / "config").write_text("[core]\n    remote = new\n")
    restore(made, project, of, force=True)
    assert (project / ".dvc" / "config").read_text() == "[core]\n    remote = new\n"
    beside = project / ".work" / "restored" / made.name / ".dvc" / "config"
    assert beside.read_text() == "[core]\n    remote = old\n"


def test_an_address_with_a_driver_is_asked_as_one_without() -> None:
    for driver in ("", "+asyncpg", "+psycopg2"):
        with pytest.raises(EverestError, match=r"port 9 failed: Connection refused") as caught:
            databases_module.refuse_sessions(f"postgresql{driver}://me:secret@127.0.0.1:9/everest_prefect")
        assert "secret" not in str(caught.value)


def test_nothing_is_replaced_without_force_nor_under_a_server_that_runs(
    project: Path, of: Databases, tmp_path: Path
) -> None:
    made = backup(project, tmp_path / "backups", of, artifacts=False)
    (project / "params.yaml").write_text("recipe: edited\n")
    with pytest.raises(InputError, match=r"mlflow, prefect: there already, and another\. Cure: --force"):
        restore(made, project, of)
    assert (project / "params.yaml").read_text() == "recipe: edited\n"
    command = [sys.executable, "-c", HOLDS, str(project / "prefect/prefect.db")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(EverestError, match=rf"prefect\.db is in use by process {server.pid} .*stop that server"):
            restore(made, project, of, force=True)
    finally:
        server.kill()
        server.wait()
    lines = restore(made, project, of, force=True)
    assert (project / "params.yaml").read_text() == "recipe: edited\n", "parameters belong to a commit"
    assert (project / ".work" / "restored" / made.name / "params.yaml").read_text() == "recipe: demo\n"
    assert any("1 files of parameters differ" in line for line in lines)


def test_a_database_that_is_reached_by_a_link_is_seen_to_be_in_use(project: Path) -> None:
    link = project.parent / "link"
    link.symlink_to(project)
    server = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(project / "prefect/prefect.db")], stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(EverestError, match=f"is in use by process {server.pid}"):
            databases_module.refuse_in_use(link / "prefect/prefect.db")
    finally:
        server.kill()
        server.wait()


def test_a_copy_of_another_kind_is_refused_before_a_file_is_put_back(
    project: Path, of: Databases, report: Path, tmp_path: Path
) -> None:
    made = backup(project, tmp_path / "backups", of)
    report.write_text("today's")
    other = on_postgres("postgresql://me:secret@127.0.0.1:9")
    for to in (other, Databases(of.mlflow, other.prefect)):
        with pytest.raises(InputError, match="is no copy of PostgreSQL"):
            restore(made, project, to, force=True)
    assert report.read_text() == "today's"


def test_users_and_roles_beside_mlflows_file_come_back_and_what_is_copied_is_said(
    project: Path, tmp_path: Path
) -> None:
    shutil.copyfile(project / "mlflow.db", project / "login.db")
    (project / "prefect" / "prefect.db").unlink()
    done = CliRunner().invoke(app, ["ops", "backup", str(tmp_path / "backups"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["mlflow"], said["login"]) == (f"sqlite:///{project}/mlflow.db", f"sqlite:///{project}/login.db")
    assert said["left_out"] == [f"Prefect's database is not in it: there is no {project}/prefect/prefect.db"]
    (project / "login.db").unlink()
    done = CliRunner().invoke(app, ["ops", "restore", said["backup"], "--force"])
    assert done.exit_code == 0, done.output
    assert (project / "login.db").exists()
    assert not (project / "prefect" / "prefect.db").exists(), "none was in the backup"


def test_databases_of_postgresql_with_a_table_are_replaced_with_force_only(project: Path, tmp_path: Path) -> None:
    with postgres() as server:
        prepare(server)
        of = on_postgres(server)
        for address in (of.mlflow, of.prefect):
            with psycopg.connect(address) as connection:
                connection.execute("create table runs (name text)")
        made = backup(project, tmp_path / "backups", of, artifacts=False)
        assert left_out(project, of) == []
        with psycopg.connect(of.prefect) as connection:
            connection.execute("insert into runs values ('made since then')")
        with psycopg.connect(of.mlflow) as connection:
            connection.execute("drop table runs")
        with pytest.raises(InputError, match=r"^prefect: there already, and another\. Cure: --force"):
            restore(made, project, of)
        with psycopg.connect(of.prefect) as connection:
            assert connection.execute("select name from runs").fetchall() == [("made since then",)]
            connection.execute("drop table runs")
        restore(made, project, of)
        with psycopg.connect(of.mlflow) as connection:
            assert connection.execute("select name from runs").fetchall() == [], "nothing was there to be replaced"


def test_what_a_newer_program_added_to_postgresql_goes_and_half_a_copy_changes_nothing(tmp_path: Path) -> None:
    with postgres() as server:
        prepare(server)
        of = on_postgres(server)
        with psycopg.connect(of.prefect) as connection:  # as up to version 14: the schema is another one's
            connection.execute(f"create role plain login password '{PASSWORD}'")
            connection.execute(f"alter database {PREFECT} owner to plain")
            connection.execute("alter schema public owner to everest")
            connection.execute("grant all on schema public to public")
        for address in (of.mlflow, of.prefect.replace("everest:", "plain:")):
            with psycopg.connect(address) as connection:
                connection.execute("create table runs (id int primary key)")
                connection.execute("insert into runs select generate_series(1, 1000)")
            made = databases_module.copy(address, tmp_path, "mlflow")
            with psycopg.connect(address) as connection:
                connection.execute("create table labels (run int references runs)")
                connection.execute("insert into labels values (1)")
            half = tmp_path / "half.dump"
            half.write_bytes(made.read_bytes()[:-400])
            with pytest.raises(EverestError, match="pg_restore failed"):
                databases_module.put_back(half, address)
            with psycopg.connect(address) as connection:
                assert connection.execute("select run from labels").fetchall() == [(1,)]
            databases_module.put_back(made, address)
            with psycopg.connect(address) as connection:
                tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
                assert tables == [("runs",)]
                assert connection.execute("select count(*) from runs").fetchone() == (1000,)


def test_a_damaged_incomplete_foreign_or_newer_backup_is_refused(project: Path, of: Databases, tmp_path: Path) -> None:
    made = backup(project, tmp_path / "backups", of, artifacts=False)
    manifest = made / "manifest.json"
    full = json.loads(manifest.read_text())
    check(made)
    for change, words in (
        ({"versions": {**full["versions"], "mlflow": "99.0.0"}}, "made with mlflow 99.0.0; .* which cannot read it"),
        ({"files": {**full["files"], "files/../../evil": "00"}}, r"lacks files/\.\./\.\./evil"),
        ({"files": {**full["files"], "files/gone": "00"}}, "lacks files/gone"),
        ({"files": {**full["files"], "mlflow.db": "00"}}, r"the bytes of mlflow\.db have changed"),
    ):
        manifest.write_text(json.dumps({**full, **change}))
        with pytest.raises(InputError, match=words):
            check(made)
    manifest.unlink()
    with pytest.raises(InputError, match="is no backup"):
        restore(made, project, of, force=True)


def test_a_server_that_does_not_tell_its_database_and_other_addresses_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVEREST_DATABASE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:5000")
    with pytest.raises(InputError, match="does not tell where its database is") as caught:
        databases(tmp_path)
    assert "secret" not in str(caught.value)
    for address in ("mysql://me:secret@host", "postgresql://me:secret@host/mine", "host"):
        with pytest.raises(InputError, match="expected a PostgreSQL server without a database") as caught:
            databases(tmp_path, address)
        assert "secret" not in str(caught.value)
