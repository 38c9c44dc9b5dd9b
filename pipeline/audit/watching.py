"""One video measured for `everest audit`, by a process that may be killed (`pipeline.data.ingest.process`).

The one pass that ingest makes also gives the change of the video's tokens.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.audit.changes import Changes
from pipeline.audit.record import Audited
from pipeline.data.ingest.measure import file_facts, measure
from pipeline.data.ingest.verdicts import Measurement
from pipeline.data.video import VideoError
from pipeline.data.video.stream import open_stream, sniff

#: [bytes] A file from which on a disk with nothing of it is asked no further: decoders look for a header in all of it.
LARGE = 1 << 20


def look(name: str, reader: str, seconds: float) -> Audited:
    """Measure one file; arguments as :func:`pipeline.data.ingest.measure.measure` has them."""
    path = Path(name)
    if reader == "pyav" and (refused := _refused(path)) is not None:
        return Audited(refused)
    changes = Changes()
    measurement = measure(path, reader, seconds, changes)
    return Audited(measurement, None if measurement.reason else changes.record())


def _refused(path: Path) -> Measurement | None:
    """Why a file does not open, told without the hash of its bytes: a disk image takes minutes to be hashed."""
    try:
        known = file_facts(path)
    except (OSError, VideoError):
        return None  # `measure` says why
    try:
        absolute = os.path.abspath(path)  # noqa: PTH100 - a leading "/" keeps FFmpeg from seeing a protocol
        sniff(absolute)
        if known.bytes > LARGE and not path.stat().st_blocks:
            raise VideoError("not_a_video", f"{path} is a hole: the disk holds not one of its bytes")
        open_stream(absolute)[0].close()
    except VideoError as error:
        return Measurement(known.bytes, known.mtime_ns, reason=error.reason, message=str(error))
    return None
