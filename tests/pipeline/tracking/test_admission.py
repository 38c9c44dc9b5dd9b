"""What a group's server refuses is what MLflow would read in a request, however that is written."""

from __future__ import annotations

import json

import pytest
from flask import Response
from mlflow.server import app
from mlflow.server.handlers import _get_normalized_request_json
from werkzeug.datastructures import Authorization

from pipeline.tracking.store import admission

API = "/api/2.0/mlflow/"
WHO = Authorization("basic", {"username": "edgar", "password": "x"})
ELSEWHERE = "file:///home/someone"
CHOSEN = {"name": "x", "artifact_location": ELSEWHERE}
TAGGED = {"tags": [{"key": "mlflow.artifactLocation", "value": ELSEWHERE}]}


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "authenticate_request_basic_auth", lambda: WHO)


def answer(method: str, path: str, body: str | bytes, kind: str = "application/json") -> tuple[int, str]:
    """The status (200 where it is let through), and the reason."""
    with app.test_request_context(path, method=method, data=body, content_type=kind):
        got = admission.authenticate()
        if isinstance(got, Response):
            return got.status_code, str(got.get_json()["message"])
        assert got is WHO
        return 200, ""


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("experiments/create", CHOSEN),
        ("experiments/create", {"name": "x", "artifactLocation": ELSEWHERE}),
        ("runs/create", TAGGED),
        ("model-versions/create", {"name": "x", "source": ELSEWHERE}),
    ],
)
def test_a_place_that_a_user_chose_is_refused_however_often_it_is_encoded(
    path: str, body: dict[str, object], times: int
) -> None:
    text: object = body
    for _ in range(times):
        text = json.dumps(text)
    assert answer("POST", API + path, str(text))[0] == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "", "application/jsonx"])
def test_a_place_is_refused_whatever_the_content_type_says(kind: str) -> None:
    body = json.dumps(TAGGED)
    with app.test_request_context(API + "traces/tr-1", method="PATCH", data=body, content_type=kind):
        assert _get_normalized_request_json() == TAGGED, "MLflow reads it"
    assert answer("PATCH", API + "traces/tr-1", body, kind) == (
        403,
        f"mlflow.artifactLocation = {ELSEWHERE!r}: artifacts lie where the server puts them. Cure: leave it out.",
    )


def test_what_chooses_no_place_is_let_through() -> None:
    for body in (json.dumps({"name": "x"}), json.dumps(json.dumps({"name": "x"})), "", "[]", "{"):
        assert answer("POST", API + "experiments/create", body) == (200, ""), body
    assert answer("POST", API + "experiments/create", json.dumps("x")) == (
        403,
        "the body is a text. Cure: an object of JSON.",
    )


def test_a_file_that_is_uploaded_is_not_read_and_may_say_what_it_likes() -> None:
    body = json.dumps(json.dumps(CHOSEN)).encode()
    path = "/api/2.0/mlflow-artifacts/artifacts/1/x/artifacts/"
    with app.test_request_context(path + "x.json", method="PUT", data=body, content_type="application/json") as context:
        assert admission.authenticate() is WHO
        assert context.request.stream.read() == body
    other = "/api/2.0/mlflow-artifacts/mpu/create/mlflow-artifacts/artifacts/x"
    assert answer("POST", other, json.dumps(CHOSEN))[0] == 403
