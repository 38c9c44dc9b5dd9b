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
from pathlib import Path
from typing import Any

from pipeline.data.ingest.measure import VERSION, Measurement
from pipeline.data.ingest.pool import Limits, measure_files
from pipeline.data.ingest.verdicts import judge
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
        path -> measurement, for every path, with a reason where it is not usable (see :func:`verdict`).
    """
    limits = Limits(params.deadline_seconds, int(params.memory_gib * 2**30))
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
        for path, found in counter("checking videos")(finished, len(todo)):
            memory.note(path, found)
            result[path] = found
    return result


def verdict(found: Measurement, params: IngestParams) -> str:
    """The reason against a measured video under these parameters, or ""."""
    return found.reason or judge(
        declared=found.frames_declared,
        decoded=found.frames_decoded,
        width=found.width,
        height=found.height,
        fps=found.fps,
        repeated_run=found.repeated_run,
        min_frames=params.min_frames,
        max_repeated_run=params.max_repeated_run,
    )


def command(folder: Path, params: IngestParams, cluster: str | None = None) -> dict[str, Any]:
    """`everest ingest DIR`: which files below a folder can be used, and why the others cannot."""
    started = time.monotonic()
    paths, others = video_files(folder)
    if not paths:
        raise InputError(
            f"{folder} holds no video: none of its {others} files ends in one of {' '.join(sorted(VIDEO_SUFFIXES))}. "
            "Cure: name the folder that holds the videos."
        )
    measured = ingest(folder, paths, params, cluster)
    reasons = {path: verdict(found, params) for path, found in measured.items()}
    return {
        "folder": str(folder),
        "videos_total": len(paths),
        "videos_ok": sum(not reason for reason in reasons.values()),
        "other_files": others,
        "seconds": round(time.monotonic() - started, 2),
        "reasons": dict(sorted(Counter(reason for reason in reasons.values() if reason).items())),
        "quarantined": [
            {
                "path": storable(path),
                "reason": reason,
                "message": measured[path].message,
            }
            for path, reason in sorted(reasons.items())
            if reason
        ],
    }


def _measure(
    root: Path, paths: list[str], limits: Limits, workers: int, cluster: str | None
) -> Iterator[tuple[str, Measurement]]:
    if cluster and paths:
        from pipeline.data.ingest.cluster_pool import measure_on_cluster

        yield from measure_on_cluster(cluster, root.absolute(), paths, limits)
        return
    for index, found in measure_files([root / path for path in paths], limits, workers):
        yield paths[index], found


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Memory:
    """The measurements of earlier calls. Lines are appended whole; a torn last line is ignored."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._file = root / NOTES / "ingest.jsonl"
        self._known: dict[str, dict[str, Any]] = {}
        self._stale = 0
        self._descriptor: int | None = None
        if self._file.exists():
            for line in self._file.read_bytes().splitlines():
                self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            path = entry["path"]
        except (ValueError, KeyError, TypeError):
            self._stale += 1
            return
        self._stale += path in self._known
        self._known[path] = entry

    def recall(self, path: str) -> Measurement | None:
        entry = self._known.get(path)
        if entry is None or entry["version"] != VERSION:
            return None
        found = Measurement(**entry["found"])
        if found.reason in _LIMITED:
            deadline, memory = entry["limits"]
            if self._limits.deadline_seconds > deadline or self._limits.memory_bytes > memory:
                return None
        try:
            now = os.stat(f"{self._root}/{path}")  # noqa: PTH116 - ten thousand Paths would cost a second
        except OSError:
            return None
        return found if (now.st_size, now.st_mtime_ns) == (found.bytes, found.mtime_ns) else None

    def note(self, path: str, found: Measurement) -> None:
        if found.reason in _PASSING:
            return
        self._stale += path in self._known
        self._known[path] = self._entry(path, found)
        line = json.dumps(self._known[path]) + "\n"
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, line.encode())  # one write of one line: writers side by side do not mix
        except OSError as error:
            self.__exit__()
            self._warn(error)

    def _entry(self, path: str, found: Measurement) -> dict[str, Any]:
        limits = [self._limits.deadline_seconds, self._limits.memory_bytes]
        return {"path": path, "version": VERSION, "limits": limits, "found": found.as_dict()}

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
            lines = (json.dumps(entry) + "\n" for entry in self._known.values())
            new.write_text("".join(lines), encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
