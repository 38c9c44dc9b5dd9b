"""Secrets that files hold, as containers get them: NAME_FILE names the file whose text becomes the variable NAME.

What starts a container, and whoever may inspect it, then knows the file's place alone.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from pipeline.errors import InputError

#: The variables that may come so.
NAMES = (
    "EVEREST_DATABASE",
    "EVEREST_PASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
)
UMASK = "EVEREST_UMASK"
#: [bytes] that a secret may have.
LONGEST = 4096


def read_secrets(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set each of `NAMES` whose file is named and that is not set itself.

    Raises:
        InputError: a file that cannot be read, is empty, or is too long to be a secret.
    """
    for name in NAMES:
        place = environment.get(f"{name}_FILE")
        if not place or environment.get(name):
            continue
        try:
            with Path(place).open("rb") as file:
                text = file.read(LONGEST + 1).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no text"
            raise InputError(
                f"{place}, which {name}_FILE names: {why}. Cure: a file that this user can read and that holds {name}."
            ) from None
        if not text or len(text) > LONGEST or "\n" in text:
            raise InputError(
                f"{place}, which {name}_FILE names: expected one line. Cure: docker/prepare.sh makes such files."
            )
        environment[name] = text


def set_umask(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take the umask of EVEREST_UMASK (octal, such as 0027), which containers have no other way to set.

    Raises:
        InputError: no octal number, or one that keeps this user from its own files.
    """
    if not (given := environment.get(UMASK)):
        return
    try:
        mask = int(given, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o077:
        raise InputError(f"{UMASK} = {given}: expected 0000 to 0077 in octal. Cure: 0027 lets the group read.")
    os.umask(mask)
