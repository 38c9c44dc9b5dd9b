"""A registered model as MLflow's own server answers for it, compared with `everest predict`."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import sample_videos
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from ports import free_port
from typer.testing import CliRunner

from pipeline import api
from pipeline.cli import app
from pipeline.data.video import write_video
from pipeline.errors import InputError, UnavailableError
from pipeline.evaluation.calibration import tempered
from pipeline.serving.limits import ServingLimits

NAMES = ("falls", "rises", "turns")


@pytest.fixture
def client(registered: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """MLflow's scoring server in this process, with small limits."""
    monkeypatch.setenv("EVEREST_SERVE_FOLDER", str(clips))
    monkeypatch.setenv("EVEREST_SERVE_MEGABYTES", "0.5")
    monkeypatch.setenv("EVEREST_SERVE_SECONDS", "5")
    monkeypatch.setenv("EVEREST_SERVE_VIDEOS", "4")
    loaded = mlflow.pyfunc.load_model(registered)
    with closing(loaded._model_impl._service), TestClient(scoring_server.init(loaded)) as asked:
        yield asked


def ask(client: Any, *rows: dict[str, Any]) -> Any:
    return client.post("/invocations", json={"dataframe_records": list(rows)})


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def test_answers_are_those_of_predict_by_path_and_by_base64(client: TestClient, registered: str, clips: Path) -> None:
    files = [clips / name for name in ("a.mp4", "b.mkv", "in/c.mp4")]
    expected = api.predict(files, registered)
    result = ask(client, {"video": "a.mp4"}, {"video": str(files[1])}, {"base64": encoded(files[2])})
    assert result.status_code == 200, result.text
    answers = result.json()["predictions"]
    for answer, row, one in zip(answers, expected.probabilities, expected.predictions, strict=True):
        assert list(answer["probabilities"]) == list(NAMES)
        assert list(answer["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert answer["predicted"] == one.class_name
        assert answer["probability"] == pytest.approx(one.probability, abs=1e-6)
    columns = client.post("/invocations", json={"inputs": {"video": ["a.mp4"]}})
    assert columns.json()["predictions"] == answers[:1]


def test_the_fitted_temperature_is_applied_by_all_who_use_a_model_and_said(
    client: TestClient, registered: str, clips: Path, tmp_path: Path
) -> None:
    file = clips / "a.mp4"
    plain = api.predict([file], registered, temperature=False)
    warm = api.predict([file], registered)
    assert (plain.temperature, warm.temperature) == (None, 2.5)
    assert warm.predictions[0].predicted == plain.predictions[0].predicted
    expected = tempered(plain.probabilities, 2.5)
    assert np.abs(expected - plain.probabilities).max() > 1e-3, "it changes something"
    assert warm.probabilities == pytest.approx(expected, abs=1e-6)
    served = ask(client, {"video": "a.mp4"}).json()["predictions"][0]
    assert list(served["probabilities"].values()) == pytest.approx(warm.probabilities[0].tolist(), abs=1e-6)
    first = {}
    for wanted in (True, False):
        timelines = api.timeline([file], registered, out=tmp_path / str(wanted), threshold=0, temperature=wanted)
        rows = pq.read_table(timelines.timelines[0].table)
        first[wanted] = np.array([[rows[name][0].as_py() for name in NAMES]])
        assert timelines.temperature == (2.5 if wanted else None)
    assert first[True] == pytest.approx(tempered(first[False], 2.5), abs=1e-6)
    line = ["predict", str(file), "--model", registered]
    assert "at temperature 2.5, fitted on validation videos" in CliRunner().invoke(app, line).stdout
    result = CliRunner().invoke(app, [*line, "--no-temperature", "--json"])
    assert json.loads(result.stdout)["predictions"][0]["probability"] == pytest.approx(plain.predictions[0].probability)


def test_a_file_that_is_replaced_gets_another_answer(client: TestClient, clips: Path) -> None:
    shutil.copy(clips / "a.mp4", clips / "changing.mp4")
    first = ask(client, {"video": "changing.mp4"}).json()
    sample_videos.write(clips / "changing.mp4", frames=60, seed=9)
    assert ask(client, {"video": "changing.mp4"}).json() != first
    (clips / "changing.mp4").write_text("<html>404 Not Found</html>" * 20)
    assert ask(client, {"video": "changing.mp4"}).status_code == 400
    shutil.copy(clips / "a.mp4", clips / "changing.mp4")
    assert ask(client, {"video": "changing.mp4"}).json() == first


def test_bad_input_is_a_400_with_the_reason(client: TestClient, clips: Path, tmp_path: Path) -> None:
    (clips / "page.mp4").write_text("<html>404 Not Found</html>" * 20)
    write_video(clips / "long.mp4", sample_videos.moving(150))
    (clips / "large.mp4").write_bytes(b"0" * 600_000)
    os.mkfifo(clips / "pipe.mp4")
    expected = {
        "absent.mp4": "'absent.mp4' does not exist there",
        "pipe.mp4": "does not exist there, or is no file",
        "in": "is no file that can be read",
        "../secret.mp4": "is outside the folder",
        "/etc/passwd": "is outside the folder",
        "/etc/absent": "is outside the folder",
        "link.mp4": "is outside the folder",
        "a\0.mp4": "is no path",
        "x" * 5000: "",
        "page.mp4": "video 0: ",
        "long.mp4": "it lasts 6.0 s, allowed are 5",
        "large.mp4": "has 0.6 MB, allowed are 0.5",
    }
    for name, words in expected.items():
        answer = ask(client, {"video": name})
        assert answer.status_code == 400, name
        assert words in answer.json()["message"]
    for content, words in {
        "????": "this is not base64",
        "": "",
        encoded(clips / "page.mp4"): "PyAV cannot open it",
        "A" * 700_000: "allowed are 0.5",
    }.items():
        answer = ask(client, {"base64": content})
        assert answer.status_code == 400
        assert words in answer.json()["message"]
        assert "everest-serve-" not in answer.json()["message"]
    for rows, words in {
        (("path", "a.mp4"),): "the request names no video",
        (("video", "a.mp4"), ("base64", "AAAA")): "expected either `video` (a path) or `base64`",
    }.items():
        answer = ask(client, dict(rows))
        assert answer.status_code == 400
        assert words in answer.json()["message"]
    assert "5 videos in one request: expected 1 to 4" in ask(client, *[{"video": "a.mp4"}] * 5).json()["message"]
    assert "video 1: " in ask(client, {"video": "a.mp4"}, {"video": "absent.mp4"}).json()["message"]
    for body in (b"{", b"[]", b"{}", b"\xff"):
        assert (
            client.post("/invocations", content=body, headers={"content-type": "application/json"}).status_code == 400
        )
    assert ask(client, {"video": "a.mp4"}).status_code == 200, "it still answers"


@pytest.mark.parametrize(
    ("python", "words"),
    [("/bin/false", "ended by itself \\(exit code 1\\)"), ("/absent/python", "cannot start: No such file")],
)
def test_a_decoder_that_cannot_start_is_a_500_with_the_reason_and_no_videos_fault(
    client: TestClient, clips: Path, registered: str, monkeypatch: pytest.MonkeyPatch, python: str, words: str
) -> None:
    def kill_decoders() -> None:
        for child in psutil.Process().children():
            if "pipeline.data.ingest.worker" in child.cmdline():
                child.kill()
                child.wait()

    assert ask(client, {"video": "a.mp4"}).status_code == 200
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", python)
        kill_decoders()
        for _ in range(3):
            answer = ask(client, {"video": "a.mp4"})
            assert answer.status_code == 500, answer.text
            assert re.search(words, answer.json()["message"])
            assert "Cure: " in answer.json()["message"]
        with pytest.raises(UnavailableError, match=words):
            api.predict([clips / "a.mp4"], registered)
    assert ask(client, {"video": "a.mp4"}).status_code == 200, "it answers again"


def test_without_a_folder_no_path_is_taken(registered: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVEREST_SERVE_FOLDER", raising=False)
    loaded = mlflow.pyfunc.load_model(registered)
    with closing(loaded._model_impl._service), TestClient(scoring_server.init(loaded)) as asked:
        answer = ask(asked, {"video": str(clips / "a.mp4")})
        assert (answer.status_code, "takes no paths" in answer.text) == (400, True)
        assert ask(asked, {"base64": encoded(clips / "a.mp4")}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EVEREST_SERVE_FOLDER", "/absent", "is no folder"),
        ("EVEREST_SERVE_SECONDS", "soon", "expected a number above 0"),
        ("EVEREST_SERVE_MEGABYTES", "-1", "expected a number above 0"),
    ],
)
def test_limits_that_are_none_are_refused(name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        ServingLimits.by_environment()


@pytest.mark.slow
def test_mlflow_models_serve_answers_ten_seconds_of_video_in_300_ms(registered: str, tmp_path: Path) -> None:
    # 340 x 256 with motion and noise, as a camera's.
    rng = np.random.default_rng(0)
    frames = sample_videos.moving(300, 256, 340)
    write_video(tmp_path / "ten.mp4", frames // 2 + rng.integers(0, 16, frames.shape, dtype=np.uint8), fps=30, crf=28)
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", registered, "--env-manager", "local", "--port", str(port)]
    environment = {**os.environ, "EVEREST_SERVE_FOLDER": str(tmp_path)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**environment, "PATH": path},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                if httpx.get(f"{address}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        request = {"dataframe_records": [{"video": "ten.mp4"}]}
        response = httpx.post(f"{address}/invocations", json=request, timeout=60)
        assert response.status_code == 200, response.text
        expected = api.predict([tmp_path / "ten.mp4"], registered).probabilities[0]
        assert list(response.json()["predictions"][0]["probabilities"].values()) == pytest.approx(
            expected.tolist(), abs=1e-6
        )
        times = []
        for _ in range(40):
            began = time.perf_counter()
            assert httpx.post(f"{address}/invocations", json=request, timeout=60).status_code == 200
            times.append(time.perf_counter() - began)
        p50, p95 = np.percentile(times, [50, 95])
        load = os.getloadavg()[0]  # on a machine that others use, the time says nothing
        assert p95 <= 0.3 or load > 1.5, f"p50 {p50:.3f} s, p95 {p95:.3f} s, load {load:.1f}"
        (tmp_path / "times.json").write_text(json.dumps({"p50": p50, "p95": p95, "load": load}))
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
        log.close()
