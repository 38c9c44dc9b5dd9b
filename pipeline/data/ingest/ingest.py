"""Ingest: every video decoded once, fully, in a process that can be killed; what was learned is remembered.

Measurements are kept beside the videos in `.everest/ingest.jsonl`, one line as each file finishes. An
unchanged file (same size and modification time) is never decoded again, not even after this process was
killed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.data.ingest.measure import VERSION
from pipeline.data.ingest.memory import Memory
from pipeline.data.ingest.pool import measure_files, measure_on_cluster
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import Measurement, verdict
from pipeline.data.video.listing import VIDEO_SUFFIXES, video_files
from pipeline.errors import InputError
from pipeline.params import IngestParams
from pipeline.system.progress import counter
from pipeline.system.text import storable


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
    memory = remembered(root, limits)
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


def remembered(root: Path, limits: Limits) -> Memory[Measurement]:
    """What ingest knows of a folder's files."""
    return Memory(root, "ingest.jsonl", VERSION, limits, Measurement, lambda measurement: measurement)


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
