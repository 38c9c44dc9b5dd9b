"""Users of a group's MLflow server: who may see and change what, and what nobody may choose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from server_probe import ask, end, wait_for

pytestmark = pytest.mark.slow

ADMIN, PASSWORD = "everest", "correct-horse-battery"
API = "/api/2.0/mlflow/"


@dataclass
class Group:
    """A server behind its login, with two experiments of the administrator's."""

    port: int
    folder: Path
    code: Path

    def ask(self, user: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        password = PASSWORD if user == ADMIN else (self.folder / ".work/members" / user).read_text()
        login = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        return ask(self.port, method, path, body, Authorization=login)

    def made(self, user: str, path: str, body: object) -> dict[str, Any]:
        status, answer = self.ask(user, "POST", API + path, body)
        assert status == 200, answer
        made: dict[str, Any] = json.loads(answer)
        return made

    def experiments(self, user: str) -> set[str]:
        rows = self.made(user, "experiments/search", {"max_results": 100}).get("experiments", [])
        return {row["name"] for row in rows} - {"Default"}

    def member(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.code),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            **variables,
        }
        command = [sys.executable, "-m", "pipeline.cli", "ops", "member", *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def group(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    folder = tmp_path_factory.mktemp("group")
    group = Group(free_port(), folder, root)
    environment = {**os.environ, "PYTHONPATH": str(root), "EVEREST_PASSWORD": PASSWORD}
    command = [sys.executable, "-m", "pipeline.cli", "ops", "serve", "mlflow", "--store", str(folder / "store")]
    log = folder / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, "--port", str(group.port)], cwd=folder, env=environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(group.port, "/health", server, log)
        for name in ("ucf101", "secret"):
            group.made(ADMIN, "experiments/create", {"name": name})
        for name, *words in (
            ("rita", "--role", "reader"),
            ("edgar", "--role", "editor"),
            ("una", "--role", "reader", "--experiment", "ucf101"),
        ):
            done = group.member(name, *words)
            assert done.returncode == 0, done.stderr
            assert (folder / ".work/members" / name).stat().st_mode & 0o077 == 0
            assert (folder / ".work/members" / name).read_text() not in done.stdout + done.stderr
        yield group
    finally:
        end(server)


def test_readers_read_editors_edit_and_a_role_for_one_experiment_shows_no_other(group: Group) -> None:
    assert group.experiments("rita") == group.experiments("edgar") == {"ucf101", "secret"}
    assert group.experiments("una") == {"ucf101"}
    status, answer = group.ask(ADMIN, "GET", API + "experiments/get-by-name?experiment_name=ucf101")
    assert status == 200
    known = json.loads(answer)["experiment"]["experiment_id"]
    run = {"experiment_id": known, "start_time": 1}
    assert group.ask("rita", "POST", API + "runs/create", run)[0] == 403
    assert group.ask("una", "POST", API + "runs/create", run)[0] == 403
    made = group.made("edgar", "runs/create", run)["run"]["info"]["run_id"]
    assert group.ask("rita", "GET", API + f"runs/get?run_id={made}")[0] == 200
    assert group.ask("rita", "POST", API + "runs/delete", {"run_id": made})[0] == 403
    file = f"/api/2.0/mlflow-artifacts/artifacts/{known}/{made}/artifacts/x.json"
    assert group.ask("edgar", "PUT", file, {"a": 1})[0] == 200
    assert group.ask("rita", "PUT", file, {"a": 2})[0] == 403
    assert group.ask("rita", "GET", file) == (200, b'{"a": 1}')


def test_a_later_experiment_is_a_readers_too_and_a_role_replaces_the_one_before(group: Group) -> None:
    group.made(ADMIN, "experiments/create", {"name": "later"})
    assert "later" in group.experiments("rita")
    assert "later" not in group.experiments("una")
    assert group.member("una", "--role", "editor", "--experiment", "later").returncode == 0
    assert group.experiments("una") == {"later"}
    assert group.member("leaver", "--role", "editor").returncode == 0
    assert group.experiments("leaver")
    assert group.member("leaver", "--role", "none").returncode == 0
    assert group.ask("leaver", "POST", API + "experiments/search", {"max_results": 1})[0] == 401


@pytest.mark.parametrize("place", ["file:///etc", "/etc", "FILE:/etc", "s3://mlflow/2", "mlflow-artifacts:/../2"])
def test_no_user_chooses_where_artifacts_lie(group: Group, place: str) -> None:
    status, answer = group.ask("edgar", "POST", API + "experiments/create", {"name": place, "artifact_location": place})
    assert (status, b"artifacts lie where the server puts them" in answer) == (403, True)
    own = group.made("edgar", "experiments/create", {"name": f"own {place}"})["experiment_id"]
    run = group.made("edgar", "runs/create", {"experiment_id": own, "start_time": 1})["run"]["info"]["run_id"]
    group.made("edgar", "registered-models/create", {"name": f"model {own}"})
    version = {"name": f"model {own}", "source": place, "run_id": run}
    assert group.ask("edgar", "POST", API + "model-versions/create", version)[0] in (400, 403)
    tag = {"run_id": run, "key": "mlflow.artifactLocation", "value": place}
    assert group.ask("edgar", "POST", API + "runs/set-tag", tag)[0] == 403


def test_a_wrong_word_or_password_or_store_is_said_in_one_line(group: Group) -> None:
    for words, variables, code, sentence in (
        (("rita", "--experiment", "ucf"), {}, 2, "experiment 'ucf' is not there. Cure: one of: Default, "),
        (("nobody", "--role", "none"), {}, 2, "'nobody' is no user of this server"),
        (("rita",), {"MLFLOW_TRACKING_PASSWORD": "wrong-horse-battery"}, 1, "of its administrator"),
        (("rita",), {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}, 2, "only a server has users"),
    ):
        done = group.member(*words, **variables)
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
