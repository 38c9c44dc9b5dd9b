"""Sending spools to the tracking server, from a background thread or from `everest sync`.

Sending is idempotent: the offset is written after the server has the records, and records that are sent
again carry the same time stamp, step and value, which together are their key on the server. Steps that a
resumed training did again are sent once: a name's steps only grow.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.system.files import sha256_of
from pipeline.tracking.folder import Remote, RunFolder, RunRecord, all_runs, is_alive, runs_dir
from pipeline.tracking.notes import NOTE, description
from pipeline.tracking.spool import Artifact, Metrics, Model, read_records

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

log = logging.getLogger(__name__)

#: Records read at a time.
CHUNK = 2000
#: Seconds between two looks at the spool.
PERIOD = 2.0
#: Longest pause between two tries of a dead server.
LONGEST_PAUSE = 30.0
#: "Niceness" of the thread that sends: the lowest priority that is never starved.
LOWEST_PRIORITY = 19


class RunGone(EverestError):
    """The server has no such run, or has it no longer."""


def drain(folder: RunFolder, store: Store) -> bool:
    """Send what the server has not got yet. False where another process is sending this run now.

    Raises:
        StoreError: the server cannot be reached; what it has so far is remembered.
    """
    with folder.upload_lock() as mine:
        if not mine:
            return False
        about, remote = folder.about(), folder.remote()
        where = layout.fingerprint(store.uri)
        if remote.get("where") != where:
            remote = _nothing_sent(where)
        try:
            _send(folder, about, remote, store)
        except RunGone as error:
            # A restored backup is older, or somebody has purged the run: the spool still has everything.
            log.warning("tracking: %s", error)
            _send(folder, about, _nothing_sent(where), store)
        return True


def _nothing_sent(where: str) -> Remote:
    return {"where": where, "offset": 0, "steps": {}}


def _send(folder: RunFolder, about: RunRecord, remote: Remote, store: Store) -> None:
    if not remote.get("run_id"):
        remote["run_id"] = _create(folder, about, store)
        remote["status"] = "RUNNING"
        folder.write_remote(remote)
    while _send_chunk(folder, remote, store):
        folder.write_remote(remote)
    # `about` was read before the records: where it says that the run ended, all of its records are sent.
    if remote.get("status") != about.get("status"):
        _unless_refused(remote, store, lambda: store.status(remote["run_id"], about["status"], about.get("ended")))
        remote["status"] = about["status"]
        folder.write_remote(remote)


def _create(folder: RunFolder, about: RunRecord, store: Store) -> str:
    tags = dict(about.get("tags", {}))
    parent = about.get("parent")
    if parent:
        tags["mlflow.parentRunId"] = _parent_on_server(parent, store)
    run = store.create_run(about["experiment"], folder.id, about["name"], about["started"], tags)
    store.inputs(run, about.get("inputs", {}))
    text = description(about, store.experiment(about["experiment"]), run, tags.get("mlflow.parentRunId"), store)
    store.tags(run, {NOTE: text})
    store.experiment_tags(about["experiment"], about.get("experiment_tags", {}))
    return run


def _parent_on_server(parent: str, store: Store) -> str:
    """A parent may be one of our folders or, given by a flow, a run that the server has already."""
    folder = RunFolder(runs_dir() / parent)
    where = layout.fingerprint(store.uri)
    while folder.about():  # it may be removed meanwhile
        remote = folder.remote()
        if remote.get("where") == where and remote.get("run_id"):
            return str(remote["run_id"])
        drain(folder, store)
        time.sleep(0.05)
    return parent


def _send_chunk(folder: RunFolder, remote: Remote, store: Store) -> bool:
    before = remote.get("offset", 0)
    records, offset = read_records(folder.spool, before, CHUNK)
    if offset == before:
        return False
    points: list[tuple[str, float, int, int]] = []
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    steps: dict[str, int] = dict(remote.get("steps", {}))
    for record in records:
        if record["k"] == "m":
            points += _new_points(record, steps)
        elif record["k"] == "p":
            params = {**record["v"], **params}
        elif record["k"] == "g":
            tags |= record["v"]
    run = remote["run_id"]
    if points:
        _unless_refused(remote, store, lambda: store.metrics(run, points))
    if params:
        _unless_refused(remote, store, lambda: store.params(run, params))
    if tags:
        _unless_refused(remote, store, lambda: store.tags(run, tags))
    for record in records:
        if record["k"] == "a" or record["k"] == "r":
            _send_held(folder, remote, record, store)
    remote["steps"] = steps
    remote["offset"] = offset
    return True


def _new_points(record: Metrics, steps: dict[str, int]) -> list[tuple[str, float, int, int]]:
    """A record's points; a summary stands at the last step of its name's series, so that it ends the curve."""
    step = record["s"]
    new = []
    for name, value in record["v"].items():
        if step is not None:
            if step <= steps.get(name, -1):
                continue
            steps[name] = step
        new.append((name, value, record["t"], steps.get(name, 0)))
    return new


def _send_held(folder: RunFolder, remote: Remote, record: Artifact | Model, store: Store) -> None:
    path = folder.path / record["path"]
    if not path.exists():
        # Sent by an earlier call that was stopped before it could note the offset.
        return
    run, key = remote["run_id"], f"{folder.id}:{record['path']}"

    def send() -> None:
        if record["k"] == "a":
            store.artifact(run, path, record["folder"])
        else:
            _check_held(path, record["tags"].get("sha256"))
            store.models.register(run, key, path, record["name"], record["tags"], record.get("aliases", []))

    _unless_refused(remote, store, send)


def _check_held(folder: Path, expected: str | None) -> None:
    """Refuse to register a model whose held weights changed since it was handed over."""
    from pipeline.tracking.store import StoreError

    if expected is not None and sha256_of(folder / "model.safetensors") != expected:
        raise StoreError(
            f"{folder}/model.safetensors is not what was to be registered: its SHA-256 differs. "
            "Cure: `everest evaluate` again.",
            permanent=True,
        )


def _unless_refused(remote: Remote, store: Store, send: Callable[[], object]) -> None:
    """A record that the server will never take must not hold up the ones behind it; it is reported instead.

    Raises:
        RunGone: it takes none of them, since it has no such run.
    """
    from pipeline.tracking.store import StoreError

    try:
        send()
    except StoreError as error:
        if not error.permanent:
            raise
        if not store.has_run(remote["run_id"]):
            raise RunGone(
                f"the server no longer has run {remote['run_id']}: it is sent anew. Cure: none is needed."
            ) from error
        log.warning("tracking: the server refused a record: %s", error)
        remote["refused"] = [*remote.get("refused", []), str(error)][-20:]


def tidy(folder: RunFolder) -> None:
    """Remove what is finished and completely sent; a failed or killed run stays, so that a resumed one continues it."""
    about = folder.about()
    if about.get("kind") == "stage" and about.get("status") == "FINISHED" and folder.sent():
        with folder.upload_lock() as mine:
            if mine and folder.sent():
                folder.remove()


class Uploader(threading.Thread):
    """Sends the given runs, and unsent ones of earlier processes, while a stage works."""

    def __init__(self, folders: list[RunFolder]) -> None:
        super().__init__(name="tracking-upload", daemon=True)
        self.folders = folders
        self.failure: str | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._gave_up = threading.Event()

    def run(self) -> None:
        from pipeline.tracking.store import Store

        # This thread alone (Linux counts priorities by thread): where no core is free, the training goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        store: Store | None = None
        pause = PERIOD
        while True:
            closing = self._closing.is_set()
            try:
                store = store or Store()
                for folder in self.folders:
                    drain(folder, store)
                if closing and self._all_sent():
                    return
                if not closing:
                    self._send_left_behind(store)
                self.failure, pause = None, PERIOD
            # A full disk or a stale file handle passes, as a dead server does.
            except (EverestError, OSError) as error:
                if self.failure is None:
                    log.warning("tracking: %s; records are kept and sent later", error)
                self.failure = str(error)
                if closing:
                    self._gave_up.set()
                    return
                pause = min(LONGEST_PAUSE, pause * 2)
            self._wake.wait(0.1 if self._closing.is_set() else pause)
            self._wake.clear()

    def finish(self, seconds: float | None = None) -> bool:
        """Send the rest for at most `seconds` (EVEREST_TRACKING_WAIT, 60); whether the server has all."""
        if seconds is None:
            seconds = float(os.environ.get("EVEREST_TRACKING_WAIT", "60"))
        self._closing.set()
        self._wake.set()
        self.join(seconds)
        return self._all_sent()

    def _all_sent(self) -> bool:
        return all(folder.sent() for folder in self.folders)

    def _send_left_behind(self, store: Store) -> None:
        from pipeline.tracking.store import StoreError

        given = {folder.id for folder in self.folders}
        for folder in all_runs():
            owner = folder.about().get("owner")
            if folder.id not in given and not folder.sent() and not (owner and is_alive(owner)):
                try:
                    drain(folder, store)
                except StoreError as error:
                    if not error.permanent:
                        raise
                    log.debug("tracking: run %s cannot be sent: %s", folder.id, error)  # `everest sync` says so
                tidy(folder)


def unsent(folders: list[RunFolder]) -> int:
    """How many records wait in the given runs' spools."""
    count = 0
    for folder in folders:
        offset = folder.remote().get("offset", 0)
        count += _count_lines(folder.spool, offset)
    return count


def _count_lines(path: Path, offset: int) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(offset)
        return sum(1 for line in file if line.endswith(b"\n"))
