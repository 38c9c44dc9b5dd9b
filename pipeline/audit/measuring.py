"""All videos of a folder measured once, with what is known of earlier; each finding is kept as it comes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.audit.record import VERSION, Audited
from pipeline.audit.watching import look
from pipeline.data.ingest.ingest import remembered
from pipeline.data.ingest.memory import Memory
from pipeline.data.ingest.pool import look_at_files
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import Measurement
from pipeline.errors import Interrupted
from pipeline.params import IngestParams
from pipeline.system.progress import Line, counter
from pipeline.system.text import counted


def audited(root: Path, paths: Sequence[str], rules: IngestParams) -> dict[str, Audited]:
    """Each video's measures and the change of its tokens, from one decoding that ingest need not repeat.

    Args:
        root: folder of the videos.
        paths: below it.
        rules: limits of one file, and processes; not more of them than cores.

    Raises:
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    limits = Limits.of(rules)
    line = Line()
    line.show(f"what is known of {counted(len(paths), 'video')}", now=True)
    memory = Memory(root, "audit.jsonl", VERSION, limits, Audited, lambda video: video.measurement)
    measures = remembered(root, limits)
    result: dict[str, Audited] = {}
    todo: list[str] = []
    for path in dict.fromkeys(paths):
        if (known := _known(path, memory, measures)) is not None:
            result[path] = known
        else:
            todo.append(path)
    line.close()
    workers = min(rules.workers, len(os.sched_getaffinity(0)))
    answers = look_at_files([root / path for path in todo], limits, workers, look, Audited)
    try:
        with memory, measures:
            for index, video in counter("looking at videos")(answers, len(todo)):
                memory.note(todo[index], video)
                if video.measurement.sha256 and measures.recall(todo[index]) is None:
                    measures.note(todo[index], video.measurement)
                result[todo[index]] = video
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(result)} of {len(paths)} videos are measured and kept; the same command goes on from there."
        ) from None
    return result


def _known(path: str, memory: Memory[Audited], measures: Memory[Measurement]) -> Audited | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return Audited(Measurement(reason="bad_name", message="the file's name is not valid UTF-8"))
    if (video := memory.recall(path)) is not None:
        return video
    measurement = measures.recall(path)
    # What ingest could not decode has no change to be seen.
    return Audited(measurement) if measurement is not None and measurement.reason else None
