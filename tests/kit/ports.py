"""Ports of loopback that nobody listens on."""

from __future__ import annotations

import contextlib
import random
import socket

#: Below those that Linux gives out itself (32768 and above): between a test's asking and its server's start nobody's
#: connection, and no other worker's `bind(0)`, takes one of these.
_LOWEST, _HIGHEST = 10240, 32767
#: Not `random` itself: workers seed that alike.
_DRAW = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """So many different ones; all are free when this returns."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            probe, port = stack.enter_context(socket.socket()), _DRAW.randint(_LOWEST, _HIGHEST)
            with contextlib.suppress(OSError):  # somebody has it
                probe.bind(("127.0.0.1", port))
                found.append(port)
        return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
