"""`everest sync`: send what a dead or slow tracking server has not got."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

from pipeline.tracking.folder import RunFolder, all_runs, is_alive
from pipeline.tracking.runs import sweep
from pipeline.tracking.upload import drain, tidy, unsent

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

#: [s] how long another process may hold a run before it is left to that.
PATIENCE = 20.0


class Sent(TypedDict):
    """What `everest sync` did.

    Attributes:
        runs: ids on the server of what was sent.
        killed: runs of dead processes.
        records, waiting: how many were sent; how many wait of runs that are still going.
        busy: runs that another process is sending.
        refused: what the server would not take.
    """

    runs: list[str | None]
    killed: list[str]
    records: int
    waiting: int
    busy: int
    refused: list[str]


def command() -> Sent:
    """Replay every unsent record, and close the runs of dead processes.

    Raises:
        StoreError: the server cannot be reached; nothing is lost.
    """
    killed = sweep()
    folders = [folder for folder in all_runs() if not folder.sent()]
    if not folders:
        return {"runs": [], "killed": killed, "records": 0, "waiting": 0, "busy": 0, "refused": []}
    from pipeline.tracking.store import Store, StoreError

    store = Store()
    before = unsent(folders)
    sent: list[str | None] = []
    refused: list[str] = []
    busy = 0
    for folder in folders:
        try:
            if not _drained(folder, store):
                busy += 1
                continue
        except StoreError as error:
            if not error.permanent:
                raise
            refused.append(f"run {folder.id}: {error}")  # those behind it must not wait for it
            continue
        remote = folder.remote()
        sent.append(remote.get("run_id"))
        refused += remote.get("refused", [])
        owner = folder.about().get("owner")
        if not (owner and folder.about().get("status") == "RUNNING" and is_alive(owner)):
            tidy(folder)
    left = [folder for folder in folders if folder.path.exists()]
    waiting = unsent(left)
    return {
        "runs": sent,
        "killed": killed,
        "records": before - waiting,
        "waiting": waiting,
        "busy": busy,
        "refused": refused,
    }


def _drained(folder: RunFolder, store: Store) -> bool:
    """Send a run; False where another process is still sending it after a while."""
    until = time.monotonic() + PATIENCE
    while not drain(folder, store):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
