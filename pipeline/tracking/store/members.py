"""The users of a group's MLflow server and what they may do there, by its own logins, roles and permissions.

Whoever has no role sees nothing (`default_permission`, pipeline/operations/serve.py); what users make is theirs.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.server.auth import entities
from mlflow.server.auth.client import AuthServiceClient
from mlflow.tracking import MlflowClient

from pipeline.errors import EverestError, InputError
from pipeline.system.redact import redact
from pipeline.tracking.store import tracking_uri

#: MLflow's only workspace, where workspaces are off.
WORKSPACE = "default"
#: What a role covers: experiments with their runs, and registered models.
KINDS = ("experiment", "registered_model")
EVERY = "*"


class Role(StrEnum):
    """What a member may do; one that is to leave has none."""

    reader = "reader"
    editor = "editor"
    none = "none"


#: MLflow's permission for each role.
PERMISSION = {Role.reader: "READ", Role.editor: "EDIT"}


def admit(name: str, role: Role, experiments: Sequence[str], password: Path) -> str:
    """Give a user of the server that MLFLOW_TRACKING_URI names a role, instead of what they had.

    Args:
        role: a new user is made; with `none` the user is deleted.
        experiments: names of those that the role is for; all, later ones too, and all models where none is named.
        password: the file that holds a new user's; where it is absent it is made, for its owner's eyes alone.

    Returns:
        a sentence about what was done.

    Raises:
        InputError: no server with logins, a name or password that it refuses, or an unknown experiment.
        EverestError: it does not answer, or does not let us.
    """
    address = tracking_uri()
    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI = {redact(address)}: only a server has users. Cure: the address of `everest ops "
            "serve mlflow`, with MLFLOW_TRACKING_USERNAME=everest and MLFLOW_TRACKING_PASSWORD."
        )
    try:
        return _admit(AuthServiceClient(address), MlflowClient(address), name, role, experiments, password)
    except MlflowException as error:
        kind = InputError if error.error_code == "INVALID_PARAMETER_VALUE" else EverestError
        raise kind(
            f"{redact(address)} refuses: {redact(error.message)}\nCure: MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD of its administrator, and a server that `everest ops serve mlflow` started."
        ) from None


def _admit(
    auth: AuthServiceClient, client: MlflowClient, name: str, role: Role, experiments: Sequence[str], password: Path
) -> str:
    known = {e.name: e.experiment_id for e in client.search_experiments()}
    if unknown := [experiment for experiment in experiments if experiment not in known]:
        there = ", ".join(sorted(known)) or "none yet"
        raise InputError(f"experiment {unknown[0]!r} is not there. Cure: one of: {there}.")
    new = not _exists(auth, name)
    if role is Role.none:
        if new:
            raise InputError(f"{name!r} is no user of this server. Cure: the name as it was given.")
        auth.delete_user(name)
        return f"{name} is no user any more; what they made stays."
    if new:
        auth.create_user(name, _password(password))
    _strip(auth, name)
    for experiment in experiments:
        auth.grant_user_permission(name, "experiment", known[experiment], PERMISSION[role])
    if not experiments:
        auth.assign_role(name, _role(auth, role))
    what = ", ".join(experiments) or "all experiments and registered models"
    return f"{name} is {role} of {what}." + (f" Their password is in {password}." if new else "")


def _exists(auth: AuthServiceClient, name: str) -> bool:
    try:
        auth.get_user(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _strip(auth: AuthServiceClient, name: str) -> None:
    """Take away what a user was given; what they made themselves (MANAGE) stays theirs."""
    for held in auth.list_user_roles(name):
        if held.name in PERMISSION:
            auth.unassign_role(name, held.id)
        elif held.name.startswith("__user_"):  # MLflow's own record of what one user was given
            for given in auth.list_role_permissions(held.id):
                if given.resource_type == "experiment" and given.permission in PERMISSION.values():
                    auth.revoke_user_permission(name, given.resource_type, given.resource_pattern)


def _role(auth: AuthServiceClient, role: Role) -> int:
    """The id of the server's role of that name, made where it is missing."""
    for there in auth.list_roles(WORKSPACE):
        if there.name == role:
            return int(there.id)
    made: entities.Role = auth.create_role(WORKSPACE, role, f"may {PERMISSION[role]} all experiments and models")
    for kind in KINDS:
        auth.add_role_permission(made.id, kind, EVERY, PERMISSION[role])
    return int(made.id)


def _password(path: Path) -> str:
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_urlsafe(18), encoding="utf-8")
    return path.read_text(encoding="utf-8")
