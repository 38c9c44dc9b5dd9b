"""What one video file really holds: hashed, and decoded once from its first frame to its last."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.ingest.verdicts import REASONS, Measurement, Rule, verdict
from pipeline.data.video import VideoError, open_video
from pipeline.data.video.jumps import Jumps, prove
from pipeline.data.video.listing import refusal
from pipeline.data.video.second_pass import confirm, survey_twice
from pipeline.data.video.stream import sniff
from pipeline.data.video.survey import Survey, Watcher, survey
from pipeline.params import IngestParams
from pipeline.params.declared import versions
from pipeline.system.files import sha256_of

#: Raised when a measurement changes its meaning, so that remembered ones are taken again.
VERSION = f"{versions()['ingest']}.{versions()['reading']}"

#: Of the seconds that a file may take, those after which nothing more is proven of it.
PROOF_SHARE = 0.7


def measure(
    path: str | Path, reader: str = "pyav", seconds: float = float("inf"), watcher: Watcher | None = None
) -> Measurement:
    """Measure one file. Never raises for a bad file: the measurement's `reason` says what is wrong.

    Args:
        path: any file.
        reader: "decord" for a file that PyAV has crashed on.
        seconds: after which the caller stops waiting: a file that takes most of it gets no proven entries.
        watcher: sees the frames of the first pass as they come.
    """
    path, known = Path(path), Measurement()
    try:
        known = file_facts(path)
        known = replace(known, sha256=sha256_of(path))
        decoded = _decode(path, reader, seconds, watcher)
        return replace(decoded, bytes=known.bytes, mtime_ns=known.mtime_ns, sha256=known.sha256)
    except VideoError as error:
        return replace(known, reason=error.reason, message=str(error))
    except MemoryError:
        return replace(known, reason="memory", message="the decoder ran out of its memory limit")
    except OSError as error:
        return replace(known, reason="unreadable", message=f"{path}: {error.strerror or error}")


def accept(path: Path, reader: str, seconds: float, rule: IngestParams | Rule) -> Measurement:
    """What ingest measures of a file that it accepts, but for its hash; `seconds` as in :func:`measure`.

    Raises:
        VideoError: it does not accept it, with its reason and in its words.
    """
    file_facts(path)
    return _accepted(path, _decode(path, reader, seconds), rule)


def accept_watched(path: Path, seconds: float, rule: IngestParams | Rule, watcher: Watcher) -> Measurement:
    """As :func:`accept`, in the time of one pass: its frames are seen by a watcher, and no entries are proven.

    Raises:
        VideoError: it is not accepted, with its reason and in its words.
    """
    file_facts(path)
    name = _checked_name(path)
    return _accepted(path, _facts(survey_twice(name, watcher, PROOF_SHARE * seconds), Jumps()), rule)


def _accepted(path: Path, result: Measurement, rule: IngestParams | Rule) -> Measurement:
    if reason := verdict(result, rule):
        raise VideoError(reason, f"{path}: {REASONS[reason]}")
    return result


def file_facts(path: Path) -> Measurement:
    """What the file system says of a file.

    Raises:
        VideoError: it cannot be a video.
    """
    if refused := refusal(path):
        raise VideoError(*refused)
    status = path.stat()
    return Measurement(bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def _decode(path: Path, reader: str, seconds: float, watcher: Watcher | None = None) -> Measurement:
    return _by_decord(path, watcher) if reader == "decord" else _by_pyav(path, seconds, watcher)


def _by_pyav(path: Path, seconds: float, watcher: Watcher | None) -> Measurement:
    name = _checked_name(path)
    until = time.monotonic() + PROOF_SHARE * seconds
    pictures = survey(name, watcher)
    jumps = prove(name, pictures, until - time.monotonic())
    if not jumps:
        confirm(name, pictures, until - time.monotonic())
    return _facts(pictures, jumps)


def _checked_name(path: Path) -> str:
    """The file's absolute name; what needs no decoder to be refused is refused.

    Raises:
        VideoError: with the reason.
    """
    name = os.path.abspath(path)  # noqa: PTH100 - a leading "/" keeps FFmpeg from seeing a protocol
    sniff(name)
    return name


def _facts(pictures: Survey, jumps: Jumps) -> Measurement:
    count = len(pictures.digests)
    return Measurement(
        frames_declared=max(pictures.expected, count),
        frames_decoded=count,
        fps=pictures.fps,
        width=pictures.width,
        height=pictures.height,
        rotation=pictures.rotation,
        reader="pyav",
        jumps=jumps.text(),
        repeated_run=pictures.repeated_run,
    )


def _by_decord(path: Path, watcher: Watcher | None) -> Measurement:
    """For what PyAV crashes on. Where frames do not decode decord repeats others silently, so it may repeat none."""
    with open_video(path, "decord") as video:
        run = longest = count = 0
        previous: np.ndarray | None = None
        if watcher is not None:
            watcher.begin(video.fps, video.num_frames)
        for frame in video.all_frames():
            run = run + 1 if previous is not None and np.array_equal(frame, previous) else 1
            if watcher is not None and watcher.wants(count):
                watcher.frame(frame)
            longest, previous, count = max(longest, run), frame, count + 1
        if longest > 1:
            raise VideoError("crashed", "PyAV crashed, and decord repeats frames that may stand for missing ones")
        return Measurement(
            frames_declared=video.num_frames,
            frames_decoded=count,
            fps=video.fps,
            width=video.width,
            height=video.height,
            reader="decord",
            repeated_run=longest,
        )
