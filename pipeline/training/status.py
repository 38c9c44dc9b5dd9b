"""How a run of ranks ended, in small JSON files that outlive the processes: exit codes tell too little."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.redact import redact

STATUS = "status.json"


def write(path: Path, value: dict[str, Any]) -> None:
    """Atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> dict[str, Any]:
    """{} where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(value)


def record_end(work: Path, rank: int, step: int, error: BaseException | None) -> None:
    """One rank's own account of how it ended, in `ends/rank-<n>.json`."""
    state = "done"
    if isinstance(error, Interrupted):
        state = "interrupted"
    elif error is not None:
        state = "failed"
    value: dict[str, Any] = {"state": state, "rank": rank, "step": step, "at": time.time()}
    if error is not None:
        value |= {
            "type": type(error).__name__,
            "message": redact(str(error)),
            "explained": isinstance(error, EverestError),
            "input": isinstance(error, InputError),
            "traceback": redact("".join(traceback.format_exception(error))),
            "retry": worth_another_try(error),
        }
    write(work / "ends" / f"rank-{rank}.json", value)


def worth_another_try(error: BaseException) -> bool:
    """Whether the fault lies with a process or the network rather than with the run itself."""
    text = f"{type(error).__name__}: {error}"
    signs = (
        "DataLoader worker",
        "DistBackendError",
        "DistNetworkError",
        "DistStoreError",
        "Connection",
        "NCCL",
    )
    return any(sign in text for sign in signs)


def ends(work: Path) -> list[dict[str, Any]]:
    """The ranks' accounts, the earliest first: what fails later often fails because of it."""
    found = [read(path) for path in (work / "ends").glob("rank-*.json")]
    return sorted((end for end in found if end), key=lambda end: float(end["at"]))
