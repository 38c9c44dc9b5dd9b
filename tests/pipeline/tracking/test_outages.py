"""A tracking server that is dead at the start, in the middle or at the end, answers 500, or hangs.

A real MLflow REST client talks to a small HTTP server on the loopback that keeps what it was sent and
misbehaves on request. Training is a loop that appends to the spool; its steps are timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from pipeline.tracking import Spool, stage_run, upload
from pipeline.tracking import sync as sync_module
from pipeline.tracking.folder import all_runs
from pipeline.tracking.store import Store

POINTS = 200


class Server(ThreadingHTTPServer):
    """The few MLflow endpoints that tracking uses.

    `mood`: ok, error (500), slow (hangs a second), lost (does what it is asked and drops the connection before
    answering).
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.mood = "ok"
        self.runs: dict[str, dict[str, Any]] = {}
        self.points: dict[str, set[tuple[str, float, int, int]]] = {}
        self.received = 0
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    do_PATCH = do_POST

    def _answer(self, body: dict[str, Any]) -> None:
        if self.server.mood == "slow":
            time.sleep(1)
        if self.server.mood == "error":
            return self._send(500, {"error_code": "INTERNAL_ERROR", "message": "out of order"})
        answer = self._do(self.path.split("?")[0].rsplit("/mlflow/", 1)[-1], body)
        if self.server.mood == "lost":
            self.close_connection = True
            self.connection.close()
            return None
        return self._send(200, answer)

    def _do(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        experiment = {
            "experiment_id": "1",
            "name": "e",
            "artifact_location": "/nowhere",
            "lifecycle_stage": "active",
        }
        if what in ("experiments/search", "experiments/get-by-name"):
            return {"experiment": experiment, "experiments": [experiment]}
        if what == "runs/search":
            key = body.get("filter", "").split("'")[1]
            return {
                "runs": [r for r in server.runs.values() if {"key": "everest.key", "value": key} in r["data"]["tags"]]
            }
        if what == "runs/create":
            run = f"{len(server.runs):032x}"
            info = {
                "run_id": run,
                "run_uuid": run,
                "experiment_id": "1",
                "status": "RUNNING",
                "start_time": 0,
            }
            server.runs[run] = {"info": info, "data": {"tags": body.get("tags", [])}}
            server.points[run] = set()
            return {"run": server.runs[run]}
        if what == "runs/get":
            run = self.path.split("run_id=")[1].split("&")[0]
            return {"run": server.runs[run]}
        if what == "runs/update":
            server.runs[body["run_id"]]["info"]["status"] = body["status"]
            return {"run_info": server.runs[body["run_id"]]["info"]}
        if what == "runs/log-batch":
            for m in body.get("metrics", []):
                server.received += 1
                # As MLflow's own table: name, value, time and step together are the key.
                server.points[body["run_id"]].add((m["key"], float(m["value"]), int(m["timestamp"]), int(m["step"])))
        return {}

    def _send(self, code: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # Its import takes seconds of this process's time; real ranks are other processes.
    import mlflow.tracking  # noqa: F401

    running = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("EVEREST_TRACKING_WAIT", "3")
    # No artifacts: their store is not what is tried here.
    monkeypatch.setattr(Spool, "text", lambda *_: None)
    monkeypatch.setattr(upload, "PERIOD", 0.05)
    monkeypatch.setattr(upload, "LONGEST_PAUSE", 0.2)
    yield running
    running.stop()


def train(server: Server, moods: dict[int, str]) -> list[float]:
    """Steps of about 5 ms, each with a record; the server changes its mood before the given steps. Seconds a step."""
    seconds = []
    with stage_run("pretrain", None, {}, Path(".work/pretrain")) as run, Spool(run.path) as rank:
        for step in range(POINTS):
            server.mood = moods.get(step, server.mood)
            began = time.perf_counter()
            time.sleep(0.005)
            rank.metrics({"train/loss": 1.0 / (step + 1)}, step)
            seconds.append(time.perf_counter() - began)
    return seconds


def stage_points(server: Server) -> list[tuple[int, float]]:
    """(step, value) of the stage's run as stored."""
    rows = [points for run, points in server.points.items() if any(p[0] == "train/loss" for p in points)]
    assert len(rows) <= 1, "one stage made several runs"
    return sorted((step, value) for points in rows for _, value, _, step in points)


EXPECTED = [(step, 1.0 / (step + 1)) for step in range(POINTS)]


@pytest.mark.parametrize(
    "moods",
    [
        {0: "error", 100: "ok"},
        {50: "error", 150: "ok"},
        {100: "lost", 110: "ok"},
        {150: "error"},
        {150: "slow"},
    ],
    ids=["down-at-the-start", "down-in-the-middle", "answers-lost", "down-at-the-end", "slow-at-the-end"],
)
def test_every_point_arrives_once_and_no_step_waits(server: Server, moods: dict[int, str]) -> None:
    seconds = train(server, moods)
    server.mood = "ok"
    sync_module.command()
    assert stage_points(server) == EXPECTED
    assert {run["info"]["status"] for run in server.runs.values()} == {"FINISHED"}
    assert statistics.median(seconds) < 0.1
    assert max(seconds) < 0.9, "a step waited for the server"


def test_a_server_that_never_came_leaves_everything_for_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.perf_counter()
    train(server, {})
    assert time.perf_counter() - began < 20
    assert server.runs == {}
    assert len(all_runs()) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    done = sync_module.command()
    assert done["records"] >= POINTS
    assert stage_points(server) == EXPECTED
    assert sync_module.command()["records"] == 0


def serve(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """A real MLflow server, ready to answer."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/store",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return running
        except OSError:
            assert running.poll() is None, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
    raise AssertionError("MLflow's server did not answer")


def kill(running: subprocess.Popen[bytes]) -> None:
    """The server and its workers, without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@pytest.mark.slow
def test_a_real_server_killed_in_the_middle_and_back_later_has_everything_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(upload, "PERIOD", 0.1)
    monkeypatch.setattr(upload, "LONGEST_PAUSE", 0.5)
    monkeypatch.setenv("EVEREST_TRACKING_WAIT", "3")
    picture, model = project / "tokens.png", project / "model"
    picture.write_bytes(b"png")
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "model.json").write_text("{}")
    first = serve(port, project)
    try:
        with stage_run("evaluate", "motion", {"a": 1}, Path(".work/evaluate")) as run, Spool(run.path) as rank:
            for step in range(POINTS):
                if step == 60:
                    while run.folder.remote().get("run_id") is None:  # the server knows of the run before it dies
                        time.sleep(0.05)
                    kill(first)
                rank.metrics({"train/loss": 1.0 / (step + 1)}, step)
                time.sleep(0.01)
            run.artifact(picture, "pictures")
            run.model(model, "everest-motion", {"score": 0.5}, ("candidate", "best"))
            run.metrics({"eval/top1": 0.5})
    finally:
        kill(first)
    again = serve(port, project)
    try:
        assert sync_module.command()["refused"] == []
        assert sync_module.command()["records"] == 0
        store = Store()
        children = store.search(query="tags.`everest.stage` = 'evaluate'")
        assert [(run["status"], run["metrics"]["eval/top1"]) for run in children] == [("FINISHED", 0.5)]
        assert store.history(children[0]["id"], "train/loss") == EXPECTED
        assert "pictures/tokens.png" in store.artifacts(children[0]["id"])
        assert [v["version"] for v in store.models.versions("everest-motion")] == ["1"]
        assert store.models.version("everest-motion", "best")["version"] == "1"
        parents = store.search(query="tags.`everest.kind` = 'experiment'")
        assert [run["status"] for run in parents] == ["FINISHED"]
    finally:
        kill(again)
