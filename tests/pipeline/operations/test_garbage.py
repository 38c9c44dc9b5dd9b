"""What is old goes, what anything uses stays: a run that goes on, a process, a lock, a server that cannot be asked."""

from __future__ import annotations

import hashlib
import http.server
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.operations import garbage, usage
from pipeline.operations.garbage import DAY, Policy, collect, remove
from pipeline.operations.server import Run, Server
from pipeline.system.git import do
from pipeline.tracking.store import Store
from tests.pipeline.system.test_worktree import make_checkout

HOLDS = """
import sys, time
from pathlib import Path
from pipeline.system.locks import held
with held(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


class Answers(Server):
    """A server with these runs."""

    def __init__(self, *runs: Run) -> None:
        super().__init__("http://127.0.0.1:9/api")
        self.known = list(runs)
        self.deleted: list[str] = []

    def runs(self, types: object) -> list[Run]:
        return [run for run in self.known if run.type in types]  # type: ignore[operator]

    def runs_of(self, identities: object) -> list[Run]:
        return [run for run in self.known if run.id in identities]  # type: ignore[operator]

    def delete_run(self, identity: str) -> None:
        self.deleted.append(identity)


def run(identity: str, state: str, days: float = 20) -> Run:
    at = time.time() - days * DAY
    kind = {"Resuming": "SCHEDULED"}.get(state, state.upper())
    ended = None if kind in ("RUNNING", "SCHEDULED") else at
    return Run(identity, f"demo {identity}", kind, state, "", "experiment", at, at, at, ended, (), "", "everest")


@pytest.fixture
def checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = make_checkout(root, tmp_path / "checkout")
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    for name in ("failed", "resuming", "deleted", "worked-in"):
        do("worktree", "add", "--detach", str(place / ".work/worktrees" / name), "HEAD", root=place)
    for key in ("000000000000", "111111111111"):
        folder = place / ".work/pretrain/all" / key / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 2**20)
    (place / "data/cache/gone").mkdir(parents=True)
    (place / "data/cache/motion").mkdir(parents=True)
    age(place / ".work", 40)
    age(place / "data", 40)
    return place


def age(folder: Path, days: float) -> None:
    at = time.time() - days * DAY
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (at, at), follow_symlinks=False)


def test_dry_touches_nothing_and_what_is_in_use_stays(checkout: Path, root: Path) -> None:
    work = checkout / ".work/pretrain/all"
    training = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(work / "111111111111/lock")], cwd=root, stdout=subprocess.PIPE
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], cwd=checkout / ".work/worktrees/worked-in"
    )
    try:
        assert training.stdout is not None
        assert training.stdout.readline() == b"held\n"
        age(work, 40)
        ended = [run("failed", "Failed"), run("worked-in", "Failed"), run("old", "Completed", 100)]
        server = Answers(run("resuming", "Resuming"), *ended)
        before = sorted(path for path in checkout.rglob("*") if ".git" not in path.parts)
        items = collect(checkout, Policy(), server)
        assert sorted(path for path in checkout.rglob("*") if ".git" not in path.parts) == before
        assert {item.name: item.kept for item in items if item.kind == "worktree"} == {
            "failed": "",
            "resuming": "its run is Resuming",
            "deleted": "",
            "worked-in": f"process {worker.pid} works there",
        }
        assert {item.name: bool(item.kept) for item in items if item.kind == "unfinished work"} == {
            "pretrain/all/000000000000": False,
            "pretrain/all/111111111111": True,
        }
        assert [(item.name, item.kept) for item in items if item.kind == "cache"] == [("gone", "")]
        assert [item.name for item in items if item.kind == "history"] == ["experiment: demo old"]
        remove(items)
    finally:
        training.kill()
        worker.kill()
        training.wait()
        worker.wait()
    assert sorted(path.name for path in (checkout / ".work/worktrees").iterdir()) == ["resuming", "worked-in"]
    assert [path.name for path in work.iterdir()] == ["111111111111"]
    assert (work / "111111111111/checkpoints/weights").exists()
    assert [path.name for path in (checkout / "data/cache").iterdir()] == ["motion"]
    assert server.deleted == ["old"]


def test_a_training_that_began_after_the_look_keeps_its_folder(checkout: Path, root: Path) -> None:
    folder = checkout / ".work/pretrain/all/000000000000"
    items = [item for item in collect(checkout, Policy(), None) if item.name.endswith("000000000000")]
    training = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder / "lock")], cwd=root, stdout=subprocess.PIPE)
    try:
        assert training.stdout is not None
        training.stdout.readline()
        (kept,) = remove(items)
        assert f"process {training.pid}" in kept.kept
        assert (folder / "checkpoints/weights").exists()
    finally:
        training.kill()
        training.wait()


def test_without_an_answer_from_prefect_every_worktree_stays(checkout: Path) -> None:
    for server in (Server("http://127.0.0.1:9/api"), None):
        kept = [item.kept for item in collect(checkout, Policy(), server) if item.kind == "worktree"]
        assert len(kept) == 4
        assert all("127.0.0.1:9/api does not answer" in why or "PREFECT_API_URL" in why for why in kept), kept


def test_what_was_touched_lately_is_not_even_looked_at(checkout: Path) -> None:
    age(checkout / ".work", 1)
    age(checkout / "data", 1)
    assert collect(checkout, Policy(), Answers(run("failed", "Failed", 1))) == []


def test_what_vanishes_while_it_looks_is_not_there(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = os.lstat

    def vanishes(path: Path, *more: object, **options: object) -> os.stat_result:
        if Path(path).name in ("weights", "checkpoints") and Path(path).exists():
            shutil.rmtree(checkout / ".work/pretrain/all/000000000000", ignore_errors=True)
        return lstat(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", vanishes)
    items = [item for item in collect(checkout, Policy(), None) if item.kind == "unfinished work"]
    assert "pretrain/all/111111111111" in [item.name for item in items]
    assert garbage._touched(checkout / "gone") == math.inf
    assert garbage._size(checkout / "gone") == 0


def test_a_cache_goes_with_the_shards_that_hold_its_bytes_and_only_what_is_freed_is_counted(
    checkout: Path, root: Path
) -> None:
    shards, cache = checkout / ".work/preprocess/gone/shards", checkout / "data/cache/gone"
    alone = checkout / ".work/preprocess/of-before/shards"
    for folder in (shards, alone):
        folder.mkdir(parents=True)
        (folder / "frames-0.arrow").write_bytes(b"x" * 2**20)
    (cache / "frames-0.arrow").hardlink_to(shards / "frames-0.arrow")
    (shards / "maps-0.arrow").write_bytes(b"x" * 2**20)
    (checkout / "kept").hardlink_to(shards / "maps-0.arrow")
    age(checkout / ".work", 40)
    age(checkout / "data", 40)

    def caches() -> list[garbage.Item]:
        return [item for item in collect(checkout, Policy(), None) if item.kind == "cache"]

    items = caches()
    assert [(item.name, item.bytes, item.kept) for item in items] == [("gone", 2**20, ""), ("of-before", 2**20, "")]
    preprocess = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(shards.parent / "lock")], cwd=root, stdout=subprocess.PIPE
    )
    try:
        assert preprocess.stdout is not None
        preprocess.stdout.readline()
        assert [item.kept for item in caches()] == ["preprocess works on it", ""]
        assert f"process {preprocess.pid}" in remove(items[:1])[0].kept, "it began after the look"
        assert (cache / "frames-0.arrow").exists()
    finally:
        preprocess.kill()
        preprocess.wait()
    remove(items)
    assert [folder.exists() for folder in (shards, cache, alone)] == [False, False, False]


def test_an_unreadable_params_file_stops_it(checkout: Path) -> None:
    (checkout / "recipes").mkdir(exist_ok=True)
    (checkout / "recipes/broken.yaml").write_text("benchmarks: [")
    with pytest.raises(Exception, match=r"broken\.yaml is not valid YAML"):
        usage.benchmarks(checkout)
    assert garbage.Policy().dvc is False


def test_a_run_of_next_night_does_not_keep_dvcs_objects_and_one_of_this_hour_does(checkout: Path) -> None:
    def kept(*runs: Run) -> str:
        items = collect(checkout, Policy(dvc=True), Answers(*runs))
        return next(item.kept for item in items if item.kind == "dvc")

    def due(hours: float) -> Run:
        return replace(run("canary", "Scheduled"), expected=time.time() + 3600 * hours)

    assert kept() == kept(due(1.5), due(26)) == ""
    for going in (due(0.5), due(-1), replace(due(9), expected=None), run("resuming", "Resuming"), run("x", "Running")):
        assert kept(due(26), going) == "a run goes on", going.state


def test_a_cache_that_other_checkouts_may_use_is_not_collected(checkout: Path, tmp_path: Path) -> None:
    """DVC is told of this checkout's commits and worktrees only: another's models would go."""
    (checkout / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    (item,) = [item for item in collect(checkout, Policy(dvc=True), Answers()) if item.kind == "dvc"]
    assert item.name == str(tmp_path / "shared")
    assert item.kept.startswith(f"it lies outside of {checkout / '.dvc'}; others may use it: dvc gc --all-commits")


def test_data_of_a_commit_that_is_no_tip_stay_and_what_no_commit_names_goes(checkout: Path) -> None:
    def store(content: bytes) -> Path:
        name = hashlib.md5(content, usedforsecurity=False).hexdigest()
        path = checkout / ".dvc/cache/files/md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def commit(content: bytes) -> Path:
        path = store(content)
        name = path.parent.name + path.name
        (checkout / "model.dvc").write_text(
            f"outs:\n- md5: {name}\n  size: {len(content)}\n  hash: md5\n  path: model\n"
        )
        do("add", "model.dvc", root=checkout)
        do("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "model", root=checkout)
        return path

    before, now, nobodys = commit(b"the model of before"), commit(b"today's"), store(b"of a sweep")
    garbage._gc_dvc(checkout)
    assert (before.exists(), now.exists(), nobodys.exists()) == (True, True, False)


class Artifacts(http.server.BaseHTTPRequestHandler):
    """MLflow's server, as far as it removes artifacts."""

    removed: list[str] = []  # noqa: RUF012 - one server, one list

    def do_DELETE(self) -> None:
        self.removed.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_deleted_runs_of_a_server_here_go_with_the_artifacts_that_it_keeps(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{checkout / 'mlflow.db'}")
    run = store.create_run("demo", "key", "old", 0, {})
    store.client.delete_run(run)
    with sqlite3.connect(checkout / "mlflow.db") as database:
        database.execute("update runs set deleted_time = 1, artifact_uri = 'mlflow-artifacts:/1/old/artifacts'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab.example:5000")
    (item,) = (item for item in collect(checkout, Policy(), None) if item.kind == "deleted run")
    assert item.kept.startswith("MLFLOW_TRACKING_URI = http://lab.example:5000 is a server, which does not tell")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Artifacts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        items = [item for item in collect(checkout, Policy(), None) if item.kind == "deleted run"]
        assert [item.name for item in items] == [f"old ({run})"]
        (gone,) = remove(items)
        server.shutdown()
    assert gone.kept == ""
    assert Artifacts.removed == ["/api/2.0/mlflow-artifacts/artifacts/1/old/artifacts/"]
    with sqlite3.connect(checkout / "mlflow.db") as database:
        assert database.execute("select * from runs").fetchall() == []
