"""Ingest: every video decoded once, fully, in a process that can be killed; what was learned is remembered.

Measurements are kept beside the videos in `.everest/ingest.jsonl`, one line as each file finishes. An
unchanged file (same size and modification time) is never decoded again, not even after this process was
killed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter

from pipeline.data.ingest.measure import VERSION
from pipeline.data.ingest.pool import measure_files, measure_on_cluster
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import Measurement, verdict
from pipeline.data.video.listing import VIDEO_SUFFIXES, video_files
from pipeline.errors import InputError
from pipeline.params import IngestParams
from pipeline.system.files import atomic_path, locked
from pipeline.system.progress import counter
from pipeline.system.text import storable

log = logging.getLogger(__name__)

#: The folder beside the videos for what this project notes about them.
NOTES = ".everest"

#: Reasons that may pass by themselves, so they are never remembered.
_PASSING = frozenset({"missing", "unreadable", "crashed", "not_a_file", "bad_name"})
#: Reasons that depend on the limits: measured again when the limits were raised.
_LIMITED = frozenset({"deadline", "memory"})


def ingest(
    root: Path, paths: Sequence[str], params: IngestParams, cluster: str | None = None
) -> dict[str, Measurement]:
    """Measure files, remembering those that have not changed since an earlier call.

    Args:
        root: folder of the videos.
        paths: relative to `root`.
        params: limits and number of processes.
        cluster: address of a Dask scheduler whose workers see the same folder; None measures here.

    Returns:
        path -> measurement, for every path, with a reason where measuring it failed.
    """
    limits = Limits.of(params)
    memory = _Memory(root, limits)
    result: dict[str, Measurement] = {}
    todo: list[str] = []
    for path in dict.fromkeys(paths):
        if not _is_utf8(path):
            result[path] = Measurement(reason="bad_name", message="the file's name is not valid UTF-8")
        elif (known := memory.recall(path)) is not None:
            result[path] = known
        else:
            todo.append(path)
    with memory:
        finished = _measure(root, todo, limits, params.workers, cluster)
        for path, measurement in counter("checking videos")(finished, len(todo)):
            memory.note(path, measurement)
            result[path] = measurement
    return result


class Quarantined(TypedDict):
    """A video that cannot be used, as `everest ingest` prints it."""

    path: str
    reason: str
    message: str


class Report(TypedDict):
    """What `everest ingest` prints of a folder."""

    folder: str
    videos_total: int
    videos_ok: int
    other_files: int
    seconds: float
    reasons: dict[str, int]
    quarantined: list[Quarantined]


def command(folder: Path, params: IngestParams, cluster: str | None = None) -> Report:
    """`everest ingest DIR`: which files below a folder can be used, and why the others cannot."""
    started = time.monotonic()
    paths, others = video_files(folder)
    if not paths:
        raise InputError(
            f"{folder} holds no video: none of its {others} files ends in one of {' '.join(sorted(VIDEO_SUFFIXES))}. "
            "Cure: name the folder that holds the videos."
        )
    measured = ingest(folder, paths, params, cluster)
    reasons = {path: reason for path, video in sorted(measured.items()) if (reason := verdict(video, params))}
    return {
        "folder": str(folder),
        "videos_total": len(paths),
        "videos_ok": len(measured) - len(reasons),
        "other_files": others,
        "seconds": round(time.monotonic() - started, 2),
        "reasons": dict(sorted(Counter(reasons.values()).items())),
        "quarantined": [
            {"path": storable(path), "reason": reason, "message": measured[path].message}
            for path, reason in reasons.items()
        ],
    }


def _measure(
    root: Path, paths: list[str], limits: Limits, workers: int, cluster: str | None
) -> Iterator[tuple[str, Measurement]]:
    if cluster and paths:
        yield from measure_on_cluster(cluster, root.absolute(), paths, limits)
        return
    for index, measurement in measure_files([root / path for path in paths], limits, workers):
        yield paths[index], measurement


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Note:
    """A line of the notes: a file's measurement, under which limits (seconds, bytes) and by which version."""

    path: str
    version: str
    limits: tuple[float, int]
    found: Measurement


_NOTE = TypeAdapter(Note)


class _Memory:
    """The measurements of earlier calls. Lines are appended whole; a torn last line is ignored."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._file = root / NOTES / "ingest.jsonl"
        self._known: dict[str, Note] = {}
        self._stale = 0
        self._descriptor: int | None = None
        if self._file.exists():
            for line in self._file.read_bytes().splitlines():
                try:
                    self._keep(_NOTE.validate_python(json.loads(line)))
                except ValueError:
                    self._stale += 1

    def _keep(self, note: Note) -> None:
        self._stale += note.path in self._known
        self._known[note.path] = note

    def recall(self, path: str) -> Measurement | None:
        """The measurement of an unchanged file, if one was taken by this version and under limits not below today's."""
        note = self._known.get(path)
        if note is None or note.version != VERSION:
            return None
        if note.found.reason in _LIMITED:
            deadline, memory = note.limits
            if self._limits.deadline_seconds > deadline or self._limits.memory_bytes > memory:
                return None
        try:
            now = os.stat(f"{self._root}/{path}")  # noqa: PTH116 - ten thousand Paths would cost a second
        except OSError:
            return None
        return note.found if (now.st_size, now.st_mtime_ns) == (note.found.bytes, note.found.mtime_ns) else None

    def note(self, path: str, measurement: Measurement) -> None:
        """Remember a measurement, unless its reason may pass by itself."""
        if measurement.reason in _PASSING:
            return
        note = Note(path, VERSION, (self._limits.deadline_seconds, self._limits.memory_bytes), measurement)
        self._keep(note)
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, _line(note).encode())  # one write of one line: writers side by side do not mix
        except OSError as error:
            self.__exit__()
            self._warn(error)

    def __enter__(self) -> _Memory:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._stale > len(self._known):
                self._compact()
            self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if self._file.stat().st_size and not self._file.read_bytes().endswith(b"\n"):
                os.write(self._descriptor, b"\n")  # the last writer was killed within a line
        except OSError as error:  # a folder of somebody else's, or a full disk: measuring needs neither
            self.__exit__()
            self._warn(error)
        return self

    def _warn(self, error: OSError) -> None:
        log.warning(
            "%s cannot be written (%s): what is measured now will be measured again next time",
            self._file,
            error.strerror,
        )

    def _compact(self) -> None:
        with (
            locked(self._file.with_suffix(".lock"), str(self._file), wait=True),
            atomic_path(self._file) as new,
        ):
            new.write_text("".join(map(_line, self._known.values())), encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _line(note: Note) -> str:
    return json.dumps(asdict(note)) + "\n"
