"""Where flows find their Prefect server, as Prefect itself would: environment, `.env`, TOML files, active profile.

Not asked from Prefect: importing it takes seconds, and fails where its folder cannot be made. A test compares the two.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: [s] that a server may take to answer, names and all.
ANSWER_SECONDS = 8.0
URL, HOME = "PREFECT_API_URL", "PREFECT_HOME"
ALLOW_EMBEDDED = "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"
#: Types of the states of what has not ended.
GOING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")


@dataclass(frozen=True)
class Setting:
    """A setting's value, where it is set, and what unsets it."""

    value: str
    origin: str
    cure: str


def setting(name: str, *keys: str) -> Setting | None:
    """The value that Prefect takes for `name`; `keys` are its place in prefect.toml."""
    if value := os.environ.get(name):
        return Setting(value, "the environment", f"unset {name}")
    if value := _in_dotenv(Path(".env"), name):
        path = Path(".env").absolute()
        return Setting(value, str(path), f"remove it from {path}")
    for path, above in ((Path("prefect.toml"), ()), (Path("pyproject.toml"), ("tool", "prefect"))):
        node: Any = _toml(path)
        for key in (*above, *keys):
            node = node.get(key) if isinstance(node, dict) else None
        if node is not None:
            return Setting(_text(node), str(path.absolute()), f"remove it from {path.absolute()}")
    profile, path, values = _profile()
    if values.get(name) is not None:
        origin = f"profile {profile!r} of {path}"
        return Setting(
            _text(values[name]), origin, f"prefect config unset {name} (or another profile: prefect profile use)"
        )
    return None


def address() -> Setting | None:
    """The server's address; None for the embedded one."""
    return setting(URL, "api", "url")


def request(api: str, path: str, query: object = None, method: str | None = None) -> urllib.request.Request:
    """A question to the server at `api`, with the login or key that Prefect's own variables hold."""
    headers = {"Content-Type": "application/json"}
    if login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    elif key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    body = None if query is None else json.dumps(query).encode()
    return urllib.request.Request(f"{api.rstrip('/')}/{path}", body, headers, method=method)


def home() -> Path:
    """Prefect's folder; its database and its files lie there."""
    chosen = setting(HOME, "home")
    return Path(chosen.value if chosen else "~/.prefect").expanduser()


def fault() -> str | None:
    """Why no flow could run, in one line with the cure; None where one could. At most some seconds."""
    where = address()
    if where is None:
        embedded = setting(ALLOW_EMBEDDED, "server", "ephemeral", "enabled")
        if embedded and embedded.value.lower() in ("0", "false", "no", "off"):
            return (
                f"{ALLOW_EMBEDDED} = {embedded.value} ({embedded.origin}) forbids the embedded server, and {URL} is "
                f"not set. Cure: {embedded.cure}, or `make ui` and set {URL}=http://127.0.0.1:4200/api"
            )
        return unwritable_home()
    why = _unreachable(where.value)
    if why is None:
        return unwritable_home()
    return (
        f"no Prefect server answers at {URL} = {_safe(where.value)} ({why}); it is set in {where.origin}. Cure: start "
        f"that server (`make ui` serves http://127.0.0.1:4200/api), or {where.cure} to use the embedded one."
    )


def unwritable_home() -> str | None:
    """Why Prefect's folder cannot be written to; the folder is made by asking."""
    given = setting(HOME, "home")
    name = f"{HOME}, set in {given.origin}" if given else f"HOME = {os.environ.get('HOME', 'not set')}"
    try:
        folder = home()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return (
            f"{given.value if given else '~/.prefect'} cannot be written to ({why}), and Prefect keeps its database "
            f"there; it comes from {name}. Cure: set HOME, or {HOME} alone, to a folder that this user may write to."
        )
    return None


def _unreachable(url: str) -> str | None:
    """Why the server does not answer as Prefect does; in a thread, since a name server may take its time."""
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_ask(url)), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answer[0] if answer else _late()


def _late() -> str:
    return f"no answer within {ANSWER_SECONDS:.0f} s"


def _ask(url: str) -> str | None:
    if not url.startswith(("http://", "https://")):
        return "no address that starts with http:// or https://"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS) as response:
            body = response.read(64).strip()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403) or url.startswith("https://api.prefect.cloud/"):
            return None  # it is there, and whether the login is right Prefect will say
        return f"it answers {error.code}: is the address one of Prefect's, with /api at its end?"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return _late() if isinstance(reason, TimeoutError) else str(reason)
    return None if body == b"true" else "what answers there is not Prefect's API: the address ends in /api"


def _profile() -> tuple[str, Path, dict[str, Any]]:
    """(name, file, settings) of the active profile."""
    given = os.environ.get("PREFECT_PROFILES_PATH") or _in_dotenv(Path(".env"), "PREFECT_PROFILES_PATH")
    below = os.environ.get(HOME) or "~/.prefect"
    try:
        path = Path(given) if given else Path(below).expanduser() / "profiles.toml"
    except RuntimeError:  # no home at all
        return "", Path(), {}
    content = _toml(path)
    name = str(os.environ.get("PREFECT_PROFILE") or content.get("active") or "")
    values = content.get("profiles", {}).get(name, {})
    return name, path, values if isinstance(values, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent; or broken, which Prefect names itself
        return {}


def _in_dotenv(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return next((value for key, value in _assignments(reversed(lines)) if key.upper() == name), None)


def _assignments(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        match = re.fullmatch(r"""\s*(?:export\s+)?(\w+)\s*=\s*(?:'([^']*)'|"([^"]*)"|([^#\s]*))\s*(?:#.*)?""", line)
        if match:
            yield match[1], match[2] or match[3] or match[4] or ""


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _safe(url: str) -> str:
    """An address without a login and without a query."""
    head, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}" if rest else url[:200]
