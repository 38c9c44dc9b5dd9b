"""Prefect's server for this machine's users only: `python -m flows.server --port 4200`.

By itself it answers any web page that the user's browser has open, and runs what that page deploys. Here a request must
be addressed to a name of this machine, and where a page sent it (Origin), that page must be ours too. Names beyond
loopback are added by EVEREST_ALLOWED_HOSTS, with commas; a login by PREFECT_SERVER_API_AUTH_STRING (user:password).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_ADDRESS = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9._-]+)(?::\d+)?")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: What the server keeps, and how long; what is set already stays.
KEPT = {
    # In memory, as it is by default, a restart would forget who has a slot, which then stays taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Ended runs with their logs go after 90 days; by default they stay for ever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86400),
}

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class SameSite:
    """Passes on what is meant for this server; answers 403 to the rest."""

    def __init__(self, app: App, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan" or self.admits(dict(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b"This address is not among the server's own (EVEREST_ALLOWED_HOSTS), or another site sent this.\n"
            head = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send({"type": "http.response.body", "body": body})

    def admits(self, headers: dict[bytes, bytes]) -> bool:
        if self._name(headers.get(b"host", b"")) not in self.hosts:
            return False
        origin = headers.get(b"origin")
        return origin is None or self._name(origin.partition(b"://")[2]) in self.hosts

    @staticmethod
    def _name(address: bytes) -> str:
        match = _ADDRESS.fullmatch(address.decode("latin-1").lower())
        return match[1].strip("[]") if match else ""


def allowed_hosts() -> frozenset[str]:
    """Loopback's names, and those of EVEREST_ALLOWED_HOSTS."""
    more = os.environ.get("EVEREST_ALLOWED_HOSTS", "").split(",")
    return frozenset([*LOOPBACK, *(name.strip().lower() for name in more if name.strip())])


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK[0])
    parser.add_argument("--port", type=int, default=4200)
    arguments = parser.parse_args()
    # What `prefect server start` sets for its own process; read when prefect is imported.
    os.environ["PREFECT_SERVER_API_HOST"] = arguments.host
    os.environ["PREFECT_SERVER_API_PORT"] = str(arguments.port)
    for name, value in KEPT.items():
        os.environ.setdefault(name, value)
    host = arguments.host if arguments.host in LOOPBACK else "localhost"
    os.environ.setdefault("PREFECT_UI_API_URL", f"http://{host}:{arguments.port}/api")
    import uvicorn
    from prefect.server.api.server import create_app

    app: Any = SameSite(create_app(final=True), allowed_hosts())
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
