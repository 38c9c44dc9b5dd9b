"""What a group's MLflow server refuses of users who have a login: addresses of artifacts that they chose themselves.

MLflow would write to and read from them with the server's own rights: a folder of its machine (`file:///home`), another
experiment's files in its bucket. `login.ini` names :func:`authenticate` (pipeline/operations/serve.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from flask import Response, make_response, request
from mlflow.server.auth import authenticate_request_basic_auth
from werkzeug.datastructures import Authorization

#: Keys of a request by which a user would choose where artifacts lie, and the tag that does so for traces.
PLACES = frozenset({"artifact_location", "artifactLocation", "artifact_uri", "artifactUri"})
TAG = "mlflow.artifactLocation"
#: Schemes of a registered version's source that MLflow itself holds against the user's permissions.
CHECKED = ("runs:", "models:", "mlflow-artifacts:")

#: MLflow's handlers that take the body as a file's bytes; every other one reads JSON, whatever its content type says.
FILES = frozenset({"_upload_artifact", "serve_upload_artifact"})


def authenticate() -> Authorization | Response:
    """Who asks, by the login; an answer where there is none, or where the request chooses a place for artifacts."""
    who = authenticate_request_basic_auth()
    if isinstance(who, Response) or request.method not in ("POST", "PUT", "PATCH"):
        return who
    if request.endpoint in FILES:
        return who
    asked = request.get_json(force=True, silent=True)
    if isinstance(asked, str):  # JSON in JSON, as clients of old sent it: MLflow decodes that once more
        try:
            asked = json.loads(asked)
        except ValueError:
            return _refused("the body is a text. Cure: an object of JSON.")
    if isinstance(asked, str):
        return _refused("the body is a text in a text. Cure: an object of JSON.")
    for key, value in _pairs(asked):
        if (key in PLACES or key == TAG) and value:
            return _refused(f"{key} = {value!r}: artifacts lie where the server puts them. Cure: leave it out.")
    if request.path.endswith("/model-versions/create") and isinstance(asked, dict):
        source = str(asked.get("source") or "")
        if not source.startswith(CHECKED):
            return _refused(f"source = {source!r}: expected an address of {', '.join(CHECKED)} Cure: register a run's.")
    return who


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, however deep, and that tag, which is written as `{key: ..., value: ...}`."""
    if isinstance(value, dict):
        if value.get("key") == TAG:
            yield TAG, value.get("value")
        for key, inner in value.items():
            yield str(key), inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _refused(reason: str) -> Response:
    return make_response({"error_code": "PERMISSION_DENIED", "message": reason}, 403)
