"""One tracked run on disk: `.work/runs/<id>/`, written before any server is asked.

    run.json      what the run is and how it stands; written by the process that owns it
    spool.jsonl   its records
    held/         files to send
    remote.json   what the server has: run id, offset into the spool; written by whoever holds `upload.lock`

A run whose owner died without a word (kill -9, power cut) is found by its process identity.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack, cast

from pipeline import layout
from pipeline.errors import BusyError
from pipeline.system.files import link, read_json, write_json
from pipeline.system.locks import locked
from pipeline.system.text import storable
from pipeline.tracking.spool import Spool, read_records

Status = str  # RUNNING, FINISHED, FAILED, KILLED: MLflow's own words


class ProcessIdentity(TypedDict):
    """What tells a process from a later one with the same number: its start time and the machine's boot."""

    pid: int
    start: int | None
    boot: str
    host: str


class RunRecord(TypedDict, total=False):
    """A run's run.json.

    `kind` is "stage" or "parent"; `parent` another run's id, here or, given by a flow, on the server; times are in ms.
    Of a parent alone: `key` of its parameters, whether its stages manage it, and tags for its experiment.
    """

    kind: str
    experiment: str
    name: str
    parent: str | None
    tags: dict[str, str]
    inputs: dict[str, str]
    started: int
    ended: int | None
    status: Status
    owner: ProcessIdentity | None
    key: str
    managed: bool
    experiment_tags: dict[str, str]


class Remote(TypedDict, total=False):
    """A run's remote.json: what the server at the address with fingerprint `where` has, and what it refused."""

    where: str
    run_id: str
    status: Status
    offset: int
    steps: dict[str, int]
    refused: list[str]


class RunFolder:
    """Access to one run's files. Holds no state of its own, so any process may open the same run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def spool(self) -> Path:
        return self.path / "spool.jsonl"

    @classmethod
    def create(cls, about: RunRecord) -> RunFolder:
        """A new run: `about` holds at least experiment, name, tags and parent (another run's id or None)."""
        folder = cls(runs_dir() / uuid.uuid4().hex)
        folder.path.mkdir(parents=True)
        folder.write(
            {
                **cast(RunRecord, storable(about)),
                "started": now_ms(),
                "status": "RUNNING",
                "owner": process_identity(os.getpid()),
            }
        )
        return folder

    def about(self) -> RunRecord:
        """run.json, or {} where it is absent or unreadable."""
        return cast(RunRecord, read_json(self.path / "run.json"))

    def write(self, about: RunRecord) -> None:
        self.path.stat()  # a run that somebody removed is not begun again with half a record
        write_json(self.path / "run.json", about)

    def update(self, **values: Unpack[RunRecord]) -> None:
        self.write({**self.about(), **values})

    def remote(self) -> Remote:
        return cast(Remote, read_json(self.path / "remote.json"))

    def write_remote(self, values: Remote) -> None:
        write_json(self.path / "remote.json", values)

    def sent(self) -> bool:
        """Whether the server has every record and the status."""
        remote, about = self.remote(), self.about()
        size = self.spool.stat().st_size if self.spool.exists() else 0
        return (
            remote.get("run_id") is not None
            and remote.get("offset", 0) >= size
            and remote.get("status") == about.get("status")
        )

    def records(self) -> Spool:
        return Spool(self.spool)

    def copy_records(self, other: RunFolder) -> None:
        """Take over another run's records and the files that go with them, all but models for the registry."""
        if (other.path / "held").exists():
            shutil.copytree(other.path / "held", self.path / "held", copy_function=link)
        records, _ = read_records(other.spool, limit=sys.maxsize)
        with self.records() as spool:
            spool.copy(record for record in records if record["k"] != "r")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def upload_lock(self) -> Iterator[bool]:
        """True while this process alone sends this run; False where another one does, or has sent and removed it."""
        with ExitStack() as stack:
            try:
                if self.path.is_dir():
                    stack.enter_context(locked(self.path / "upload.lock", f"run {self.id}"))
                mine = (self.path / "run.json").is_file()
            except BusyError:
                mine = False
            yield mine


def runs_dir() -> Path:
    """`.work/runs`; EVEREST_RUNS puts it elsewhere, for a checkout that is removed when its work is done."""
    return Path(os.environ.get("EVEREST_RUNS") or layout.WORK / "runs").absolute()


def all_runs() -> list[RunFolder]:
    """Every run that is kept here, parents first: a child needs its parent's id on the server."""
    if not runs_dir().is_dir():
        return []
    folders = [RunFolder(path) for path in runs_dir().iterdir() if (path / "run.json").is_file()]
    return sorted(folders, key=lambda f: (f.about().get("parent") is not None, f.about().get("started", 0)))


@contextmanager
def runs_lock() -> Iterator[None]:
    """Only one process at a time opens, closes or sweeps runs. Held for milliseconds."""
    with locked(runs_dir() / ".lock", "the folder of runs", wait=True):
        yield


def process_identity(pid: int) -> ProcessIdentity:
    """The identity of a process that runs now."""
    return {"pid": pid, "start": _start_ticks(pid), "boot": _boot_id(), "host": socket.gethostname()}


def is_here(owner: ProcessIdentity | None) -> bool:
    """Whether a process is one of this machine, by the machine's name."""
    return owner is not None and owner["host"] == socket.gethostname()


def is_alive(owner: ProcessIdentity) -> bool:
    """Whether the process lives. One of another machine is taken to live: it cannot be asked from here."""
    if not is_here(owner):
        return True
    if owner["boot"] != _boot_id():
        return False
    start = _start_ticks(owner["pid"])
    return start is not None and start == owner["start"]


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the command in brackets and may hold anything, spaces and brackets too.
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def now_ms() -> int:
    return time.time_ns() // 1_000_000
