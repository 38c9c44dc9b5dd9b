"""One message to the webhook in EVEREST_WEBHOOK, and through the block of Prefect that EVEREST_NOTIFY_BLOCK names.

Both are in the environment, never in params.yaml: an address with its token is a secret, and parameters are committed,
tracked and shown. What is said of a failure names neither.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Literal

from pipeline.system.redact import redact

log = logging.getLogger(__name__)

WEBHOOK, BLOCK = "EVEREST_WEBHOOK", "EVEREST_NOTIFY_BLOCK"
#: [s] that both have, names and all; a run waits no longer for them.
WAIT_SECONDS = 5.0
#: Characters of a message: what all chats take.
LONGEST = 1500

Event = Literal["failure", "health", "budget", "end"]


def wanted() -> bool:
    """Whether anybody is to be told."""
    return bool(os.environ.get(WEBHOOK) or os.environ.get(BLOCK))


def send(event: Event, text: str) -> bool:
    """Tell it; whether all who are named took it within WAIT_SECONDS. What goes wrong is a line in the log.

    The webhook gets JSON whose `text` and `content` are the message (Slack, Mattermost, Teams, Discord), with `event`,
    `host`, `folder` and `time` for programs.
    """
    text = redact(text)[:LONGEST]
    taken: list[bool] = []
    ways = [way for name, way in ((WEBHOOK, _post), (BLOCK, _through_prefect)) if os.environ.get(name)]
    threads = [threading.Thread(target=lambda way=way: taken.append(way(event, text)), daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    until = time.monotonic() + WAIT_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if len(taken) < len(ways):
        log.warning("notification: no answer within %g s; the run does not depend on it.", WAIT_SECONDS)
    return len(taken) == len(ways) and all(taken)


def _post(event: Event, text: str) -> bool:
    address = os.environ[WEBHOOK]
    if not address.startswith(("https://", "http://")):
        log.warning("notification: %s is no address that starts with https:// or http://. Nothing was sent.", WEBHOOK)
        return False
    body = {
        "text": text, "content": text, "event": event, "host": socket.gethostname(), "folder": str(Path.cwd()),
        "time": time.time(),
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "User-Agent": "everest"}
    try:
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
            response.read(1 << 10)
    except urllib.error.HTTPError as error:
        return _not_sent(f"the webhook answered {error.code}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return _not_sent(f"the webhook did not answer ({str(reason).replace(address, '[hidden]')})")
    return True


def _through_prefect(event: Event, text: str) -> bool:
    try:
        from prefect.blocks.core import Block

        notify = getattr(Block.load(os.environ[BLOCK]), "notify")  # noqa: B009 - blocks of other kinds have none
        notify(text, subject=f"EVEREST: {event}")
    except Exception as error:  # noqa: BLE001 - whatever a block or its server raises
        return _not_sent(f"Prefect's block did not take it ({type(error).__name__})")
    return True


def _not_sent(why: str) -> bool:
    log.warning("notification: %s; the run does not depend on it.", redact(why))
    return False
