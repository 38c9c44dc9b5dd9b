"""The servers as a user starts them, probed as an attacker would: other names, other sites, paths, no login."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port
from server_probe import ask, end, wait_for

from pipeline.tracking.store import Store
from pipeline.ui import stores

slow = pytest.mark.slow
#: The wanted file and what it surely holds.
PASSWD, SIGN = "etc/passwd", b"root:"


@pytest.fixture(scope="module")
def ui(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """`everest ui` over a store with one run and one artifact."""
    folder = tmp_path_factory.mktemp("ui")
    mlflow, prefect = free_port(), free_port()
    store = Store(f"sqlite:///{folder}/mlflow.db")
    run = store.create_run("e", "k", "run", 0, {})
    (folder / "notes.txt").write_text("harmless")
    store.artifact(run, folder / "notes.txt", "")
    home = folder / "prefect"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(root), "PREFECT_HOME": str(home), "DO_NOT_TRACK": "true"}
    log = folder / "ui.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)],
            cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(mlflow, "/health", process, log)
        wait_for(prefect, "/api/health", process, log)
        yield {"mlflow": mlflow, "prefect": prefect, "run": run}
    finally:
        end(process)


@slow
def test_both_pages_answer_this_machine_and_no_other_address_of_it(ui: dict[str, Any]) -> None:
    assert ask(ui["mlflow"], "GET", "/")[0] == 200
    assert ask(ui["prefect"], "GET", "/")[0] == 200
    assert ask(ui["prefect"], "GET", "/api/health", Host="localhost") == (200, b"true")
    assert ask(ui["mlflow"], "GET", f"/get-artifact?path=notes.txt&run_uuid={ui['run']}") == (200, b"harmless")
    bound = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=False)
    for port in (ui["mlflow"], ui["prefect"]):
        listening = re.findall(rf"([0-9A-F]+):{port:04X} [0-9A-F]+:0000 0A", bound.stdout)
        assert listening == ["0100007F"], "listens on more than 127.0.0.1"


@slow
def test_other_host_names_and_other_sites_get_403(ui: dict[str, Any]) -> None:
    search = {"max_results": 1}
    for name in ("evil.example", f"evil.example:{ui['mlflow']}", "127.0.0.1.evil.example"):
        assert ask(ui["mlflow"], "POST", "/api/2.0/mlflow/experiments/search", search, Host=name)[0] == 403
        assert ask(ui["prefect"], "POST", "/api/flow_runs/filter", {}, Host=name)[0] == 403
        assert ask(ui["prefect"], "GET", "/", Host=name)[0] == 403
    for origin in ("http://evil.example", "null"):
        assert ask(ui["prefect"], "POST", "/api/flows/", {"name": "x"}, Origin=origin)[0] == 403
    made = ask(ui["mlflow"], "POST", "/api/2.0/mlflow/experiments/create", {"name": "x"}, Origin="http://evil.example")
    assert made[0] == 403


@slow
def test_no_path_leads_out_of_what_is_served(ui: dict[str, Any]) -> None:
    up = "../" * 12
    quoted = "%2e%2e%2f" * 12
    for port, path in (
        (ui["mlflow"], f"/get-artifact?path={up}{PASSWD}&run_uuid={ui['run']}"),
        (ui["mlflow"], f"/get-artifact?path=/{PASSWD}&run_uuid={ui['run']}"),
        (ui["mlflow"], f"/get-artifact?path={quoted}{PASSWD}&run_uuid={ui['run']}"),
        (ui["mlflow"], f"/api/2.0/mlflow-artifacts/artifacts/{up}{PASSWD}"),
        (ui["mlflow"], f"/api/2.0/mlflow-artifacts/artifacts/{quoted}{PASSWD}"),
        (ui["mlflow"], f"/static-files/{up}{PASSWD}"),
        (ui["prefect"], f"/{up}{PASSWD}"),
        (ui["prefect"], f"/assets/{quoted}{PASSWD}"),
    ):
        status, body = ask(port, "GET", path)
        assert SIGN not in body, path
        assert status in (400, 401, 403, 404), (path, status)


PASSWORD = "correct-horse-battery"


def login(password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"everest:{password}".encode()).decode()}


@slow
def test_the_containers_servers_want_a_login(root: Path, tmp_path: Path) -> None:
    """The commands of docker/compose.yaml, run without containers."""
    mlflow, prefect = free_port(), free_port()
    (tmp_path / "password").write_text(PASSWORD)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
        "PYTHONPATH": str(root),
        "EVEREST_PASSWORD_FILE": str(tmp_path / "password"),
        "EVEREST_ALLOWED_HOSTS": "prefect",
    }
    serve = [sys.executable, "-m", "pipeline.cli", "ops", "serve"]
    first = [*serve, "mlflow", "--store", str(tmp_path), "--port", str(mlflow)]
    first += ["--allowed-hosts", f"mlflow:5000,127.0.0.1:{mlflow}"]
    second = [*serve, "prefect", "--store", str(tmp_path / "prefect"), "--port", str(prefect)]
    log = tmp_path / "servers.log"
    with log.open("wb") as file:
        servers = [
            subprocess.Popen(c, cwd=tmp_path, env=environment, stdout=file, stderr=file, start_new_session=True)
            for c in (first, second)
        ]
    try:
        wait_for(mlflow, "/health", servers[0], log)
        wait_for(prefect, "/api/health", servers[1], log)
        experiments = "/api/2.0/mlflow/experiments/search"
        for port, path, body in ((mlflow, experiments, {"max_results": 1}), (prefect, "/api/flow_runs/filter", {})):
            assert ask(port, "POST", path, body)[0] == 401
            assert ask(port, "POST", path, body, **login("wrong-horse-battery"))[0] == 401
            assert ask(port, "POST", path, body, **login())[0] == 200
            assert ask(port, "POST", path, body, Host="evil.example", **login())[0] == 403
        assert ask(mlflow, "POST", experiments, {"max_results": 1}, Host="mlflow:5000", **login())[0] == 200
        assert ask(prefect, "POST", "/api/flow_runs/filter", {}, Host="prefect:4200", **login())[0] == 200
        assert ask(mlflow, "GET", "/api/2.0/mlflow-artifacts/artifacts?path=")[0] == 401
        assert b"<html" in ask(prefect, "GET", "/", **login())[1].lower(), "its page is served from a folder of its own"
        for kept in ("login.ini", "session-key"):
            assert (tmp_path / kept).stat().st_mode & 0o077 == 0
            assert PASSWORD not in (tmp_path / kept).read_text()
        shown = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
        assert any(str(prefect) in line for line in shown)
        assert PASSWORD not in "".join(shown) + log.read_text()
    finally:
        for server in servers:
            end(server)


def test_a_missing_or_short_password_stops_the_container_at_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").write_text("")
    for given, word in (
        ({}, "EVEREST_PASSWORD has 0 characters: expected 12 or more"),
        ({"EVEREST_PASSWORD_FILE": "short"}, "EVEREST_PASSWORD has 5 characters"),
        ({"EVEREST_PASSWORD_FILE": "empty"}, "empty, which EVEREST_PASSWORD_FILE names: expected one line"),
        ({"EVEREST_PASSWORD_FILE": "absent"}, "absent, which EVEREST_PASSWORD_FILE names: No such file"),
    ):
        for server in ("mlflow", "prefect"):
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.cli", "ops", "serve", server, "--store", "store"],
                cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root), **given},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 2
            assert word in done.stderr
    assert not (tmp_path / "store").exists()


def test_containers_run_as_a_user_on_loopback_with_hashed_requirements(root: Path) -> None:
    """Docker is not needed to read what it would be told."""
    recipe = (root / "docker/Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", recipe, re.MULTILINE)[-1:] == ["everest"]
    assert recipe.index("USER everest") < recipe.index("CMD")
    assert "--require-hashes" in recipe
    lock = (root / "requirements.lock").read_text()
    pinned = re.findall(r"^[a-z0-9][^ ]*==[^ ]+.*(?:\n    .*)*", lock, re.MULTILINE)
    assert len(pinned) > 100
    assert all("--hash=sha256:" in entry for entry in pinned)
    assert {"*", "**/.env*", "**/*.local"} <= set((root / ".dockerignore").read_text().split())


def test_a_tracking_address_of_a_server_is_not_taken_for_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, store in (
        ("", "sqlite:///mlflow.db"),
        ("http://127.0.0.1:5000", "sqlite:///mlflow.db"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert stores(None) == {"MLFLOW_BACKEND_STORE_URI": store}
