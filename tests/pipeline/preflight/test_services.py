"""Prefect, HOME, MLflow and DVC's locks: one line with the place, the reason and the cure, within seconds."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.errors import EverestError
from pipeline.preflight import orchestrator, services
from pipeline.system import dvc_locks

DEAD = "http://127.0.0.1:9/api"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and a home of its own, without a setting of Prefect's."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def profile(home: Path, url: str) -> Path:
    path = home / ".prefect" / "profiles.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'active = "far"\n[profiles.far]\nPREFECT_API_URL = "{url}"\n')
    return path


def set_in(place: str, here: Path, monkeypatch: pytest.MonkeyPatch, url: str = DEAD) -> str:
    """Set the address in one of the places; returns how a message calls it."""
    if place == "environment":
        monkeypatch.setenv("PREFECT_API_URL", url)
        return "the environment"
    if place == "profile":
        return f"profile 'far' of {profile(Path(os.environ['HOME']), url)}"
    name = {"dotenv": ".env", "prefect.toml": "prefect.toml", "pyproject": "pyproject.toml"}[place]
    text = {
        "dotenv": f"# servers\nexport PREFECT_API_URL='{url}'  # ours\n",
        "prefect.toml": f'[api]\nurl = "{url}"\n',
        "pyproject": f'[tool.prefect.api]\nurl = "{url}"\n',
    }[place]
    (here / name).write_text(text)
    return str(here / name)


PLACES = ["environment", "dotenv", "prefect.toml", "pyproject", "profile"]


@pytest.mark.parametrize("place", PLACES)
def test_a_dead_server_is_one_line_with_its_address_the_place_and_the_cure(
    here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    called = set_in(place, here, monkeypatch)
    began = time.monotonic()
    text = orchestrator.fault()
    assert time.monotonic() - began < 10
    assert text is not None
    assert f"PREFECT_API_URL = {DEAD} (" in text
    assert f"it is set in {called}. Cure: start that server" in text
    assert len(text.splitlines()) == 1


def test_each_place_is_read_as_prefect_itself_reads_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from prefect.settings import get_current_settings as s; print(s().api.url); print(s().home)"
    for place in reversed(PLACES):  # each goes over those before it
        set_in(place, here, monkeypatch, f"http://127.0.0.1:9/{place}")
        monkeypatch.setenv("PREFECT_HOME" if place == "environment" else "UNUSED", str(here / "own"))
    result = orchestrator.address()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert result is not None
    assert [result.value, str(orchestrator.home())] == shown == ["http://127.0.0.1:9/environment", str(here / "own")]


@pytest.fixture
def server() -> Iterator[str]:
    """Prefect's health at /api, a page at /, nothing at /slow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                time.sleep(3)
            body = b"true" if self.path == "/api/health" else b"<html>"
            self.send_response(404 if self.path.startswith("/else") else 200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api", None),
        ("", "not Prefect's API: the address ends in /api"),
        ("/else/api", "it answers 404"),
        ("/slow/api", "no answer within 1 s"),
    ],
)
def test_what_answers_must_be_prefect_and_in_time(
    here: Path, monkeypatch: pytest.MonkeyPatch, server: str, path: str, words: str | None
) -> None:
    monkeypatch.setattr(orchestrator, "ANSWER_SECONDS", 1.0)
    monkeypatch.setenv("PREFECT_API_URL", server + path)
    text = orchestrator.fault()
    assert (text is None) == (words is None)
    assert words is None or words in str(text)


def test_a_login_in_the_address_is_not_shown(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:hunter2@127.0.0.1:9/api?key=hunter3")
    assert "hunter" not in str(orchestrator.fault())


@pytest.mark.parametrize("name", ["HOME", "PREFECT_HOME"])
def test_a_home_that_cannot_be_written_to_is_said_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/proc/nohome")
    text = orchestrator.fault()
    assert text is not None
    assert "/proc/nohome" in text
    assert f"{name} " in text or f"{name}," in text
    assert "cannot be written to" in text
    assert "Cure: set HOME" in text


@pytest.mark.parametrize("command", ["run", "demo"])
@pytest.mark.parametrize(("variable", "value"), [("PREFECT_API_URL", DEAD), ("HOME", "/proc/nohome")])
def test_the_command_ends_within_15_seconds_with_1_and_writes_nothing(
    root: Path, here: Path, command: str, variable: str, value: str
) -> None:
    (here / "params.yaml").write_text((root / "recipes" / "demo.yaml").read_text())
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", command], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root), variable: value},
    )  # fmt: skip
    assert time.monotonic() - began < 15
    assert done.returncode == 1
    assert value in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_the_doctor_says_what_run_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import doctor

    set_in("dotenv", here, monkeypatch)
    row = next(check for check in doctor._beside() if check["check"] == "prefect")
    assert row["status"] == "fail"
    assert str(here / ".env") in row["found"]
    assert "start that server" in row["cure"]


def test_a_dead_tracking_server_and_a_foreign_store_are_warnings(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.mlflow_warning() is None
    with sqlite3.connect("mlflow.db") as store:
        store.execute("create table alembic_version (version_num text)")
        store.execute("insert into alembic_version values ('ffffffffffff')")
    warning = services.mlflow_warning()
    assert warning is not None
    assert "a newer MLflow made it" in str(warning)
    with sqlite3.connect("mlflow.db") as store:
        store.execute("update alembic_version set version_num = '451aebb31d03'")
    assert "an older MLflow made it. `mlflow db upgrade" in str(services.mlflow_warning())
    with sqlite3.connect("mlflow.db") as store:
        store.execute("update alembic_version set version_num = ?", (services._migrations()[1],))
    assert services.mlflow_warning() is None
    Path("mlflow.db").write_bytes(b"no database at all" * 100)
    assert "not a database" in str(services.mlflow_warning())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    warning = services.mlflow_warning()
    assert warning is not None
    assert (warning.kind, "127.0.0.1:9 does not answer" in str(warning)) == ("warning", True)
    for address in ("http://host:port", "http://[::1", "http://host:99999"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        warning = services.mlflow_warning()
        assert warning is not None
        assert (warning.kind, "is no address" in str(warning)) == ("warning", True)


@pytest.fixture
def tmp(here: Path) -> Path:
    folder = here / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    return folder


def dvc_like(code: str) -> subprocess.Popen[str]:
    """A process whose command names dvc, as `dvc repro` does."""
    child = subprocess.Popen([sys.executable, "-c", code, "dvc", "repro"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    return child


def test_whoever_holds_dvcs_lock_is_named_and_waited_for(tmp: Path) -> None:
    code = (
        "import os, time, zc.lockfile; lock = zc.lockfile.LockFile('.dvc/tmp/lock')\n"
        "print('ready', flush=True); time.sleep(1.5); lock.close()"
    )
    child = dvc_like(code)
    messages: list[str] = []
    try:
        began = time.monotonic()
        dvc_locks.wait_until_free(messages.append)
        assert time.monotonic() - began > 0.5
        assert len(messages) == 1
        assert f"process {child.pid} (" in messages[0]
        assert "dvc repro, since " in messages[0]
        assert "Ctrl-C stops" in messages[0]
    finally:
        child.kill()
        child.wait()
    dvc_locks.wait_until_free(messages.append)
    assert len(messages) == 1


def test_a_lock_file_that_nobody_holds_keeps_nobody_waiting(tmp: Path) -> None:
    (tmp / "lock").write_text(" 1\n")
    assert dvc_locks.holder() is None
    with (tmp / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "process 1 " in str(dvc_locks.holder()) + " "


def test_a_stage_of_another_dvc_is_named_with_what_it_works_on(tmp: Path) -> None:
    child = dvc_like("import time; print('ready', flush=True); time.sleep(60)")
    try:
        (tmp / "rwlock").write_text(
            json.dumps({"write": {"/x/data": {"pid": child.pid, "cmd": "dvc repro"}}, "read": {}})
        )
        who = dvc_locks.holder()
        assert who is not None
        assert f"process {child.pid} (" in who
        assert who.endswith("works on /x/data")
        assert dvc_locks.stale() is None
    finally:
        child.kill()
        child.wait()
    assert dvc_locks.holder() is None


def test_a_list_that_dvc_is_writing_anew_is_not_called_broken(tmp: Path) -> None:
    path, over, written = tmp / "rwlock", threading.Event(), 0

    def write() -> None:  # as DVC does: emptied, then written
        nonlocal written
        while not over.is_set():
            with path.open("w") as file:
                file.flush()
                time.sleep(0.002)
                json.dump({"write": {"/x": {"pid": 2**22 + 5, "cmd": "dvc repro"}}, "read": {}}, file)
            written += 1
            time.sleep(0.004)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        looks = 0
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert dvc_locks.stale() is None
            assert dvc_locks.holder() is None
            looks += 1
    finally:
        over.set()
        writer.join()
    assert min(written, looks) > 5


def test_what_a_crash_left_of_dvcs_locks_is_said_with_the_command_that_removes_it(tmp: Path) -> None:
    path = tmp / "rwlock"
    path.write_text(json.dumps({"write": {}, "read": {"/x/data": [{"pid": os.getppid(), "cmd": "dvc repro"}]}}))
    with pytest.raises(EverestError, match=r"another program by now .*Cure: rm \.dvc/tmp/rwlock"):
        dvc_locks.wait_until_free(print)
    path.write_text("")
    with pytest.raises(EverestError, match=r"broken .*Cure: rm \.dvc/tmp/rwlock"):
        dvc_locks.wait_until_free(print)
    path.write_text(json.dumps({"write": {"/x": {"pid": 2**22 + 5, "cmd": "dvc repro"}}, "read": {}}))
    dvc_locks.wait_until_free(print)  # DVC itself forgets a dead process
