"""What a group's MLflow server refuses of users who have a login: addresses of artifacts that they chose themselves.

MLflow would write to and read from them with the server's own rights: a folder of its machine (`file:///home`), another
experiment's files in its bucket. `login.ini` names :func:`authenticate` (pipeline/operations/serve.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, make_response, request
from mlflow.server.auth import authenticate_request_basic_auth
from werkzeug.datastructures import Authorization

#: Keys of a request by which a user would choose where artifacts lie, and the tag that does so for traces.
PLACES, TAG = frozenset({"artifact_location", "artifact_uri", "artifactLocation"}), "mlflow.artifactLocation"
#: Schemes of a registered version's source that MLflow itself holds against the user's permissions.
CHECKED = ("runs:", "models:", "mlflow-artifacts:")


def authenticate() -> Authorization | Response:
    """Who asks, by the login; an answer where there is none, or where the request chooses a place for artifacts."""
    who = authenticate_request_basic_auth()
    if isinstance(who, Response) or request.method not in ("POST", "PUT", "PATCH"):
        return who
    asked = request.get_json(force=True, silent=True) if request.is_json else None
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
