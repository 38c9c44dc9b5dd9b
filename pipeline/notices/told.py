"""A command's end or failure is told once, by the process that a person or a deployment started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import BudgetSpentError, Interrupted
from pipeline.notices.send import send, wanted
from pipeline.system.progress import clock
from pipeline.system.redact import redact

#: Set for the processes below one that tells.
ABOVE = "EVEREST_TOLD_ABOVE"


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell when the body ends, fails or has spent its budget; not when a person stops it."""
    if not wanted() or os.environ.get(ABOVE):
        yield
        return
    os.environ[ABOVE] = "1"
    began = time.monotonic()
    where = f"{what} in {Path.cwd()}"
    try:
        yield
    except BudgetSpentError as error:
        send("budget", f"{where}: {error}")
        raise
    except Interrupted:
        raise
    except Exception as error:  # Ctrl-C, an exit and Prefect's `Pause`, by which a stopped run leaves, are none
        lines = str(error).splitlines() or [""]
        send("failure", f"{where} failed after {clock(time.monotonic() - began)}: {redact(lines[0])}")
        raise
    finally:
        os.environ.pop(ABOVE)
    send("end", f"{where} ended well after {clock(time.monotonic() - began)}.")
