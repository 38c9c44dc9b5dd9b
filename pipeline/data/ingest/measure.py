"""What one video file really holds: hashed, and decoded once from its first frame to its last."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.ingest.verdicts import REASONS, judge
from pipeline.data.video import VideoError, open_video
from pipeline.data.video.jumps import prove
from pipeline.data.video.listing import refusal
from pipeline.data.video.stream import sniff
from pipeline.data.video.survey import confirm, survey
from pipeline.params.declared import versions
from pipeline.system.files import sha256_of

#: Raised when a measurement changes its meaning, so that remembered ones are taken again.
VERSION = f"{versions()['ingest']}.{versions()['reading']}"

#: Of the seconds that a file may take, those after which nothing more is proven of it.
PROOF_SHARE = 0.7


@dataclass(frozen=True)
class Measurement:
    """One file's facts. `reason` is set only where measuring itself failed; frames are 0 then.

    `frames_declared` are the pictures that the header promises: without those that it marks as not to be shown, empty
    chunks and what stands before the first keyframe. `repeated_run` is the length of the longest run of equal
    neighbouring frames: 1 where all differ. `jumps` are the proven entries (`pipeline.data.video.jumps`).
    """

    bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    frames_declared: int = 0
    frames_decoded: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    reader: str = ""
    jumps: str = ""
    repeated_run: int = 0
    reason: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(path: Path, reader: str = "pyav", seconds: float = float("inf")) -> Measurement:
    """Measure one file. Never raises for a bad file: the measurement's `reason` says what is wrong.

    Args:
        path: any file.
        reader: "decord" for a file that PyAV has crashed on.
        seconds: after which the caller stops waiting: a file that takes most of it gets no proven entries.
    """
    facts: dict[str, Any] = {}
    try:
        facts |= _stat(path)
        facts["sha256"] = sha256_of(path)
        return Measurement(**facts, **_decode(path, reader, seconds))
    except VideoError as error:
        return Measurement(**facts, reason=error.reason, message=str(error))
    except MemoryError:
        return Measurement(**facts, reason="memory", message="the decoder ran out of its memory limit")
    except OSError as error:
        return Measurement(**facts, reason="unreadable", message=f"{path}: {error.strerror or error}")


def admit(path: Path, reader: str, seconds: float, min_frames: int, max_repeated_run: int) -> dict[str, Any]:
    """What ingest finds in a file that it accepts under these limits, but for its hash; `seconds` as in `measure`.

    Raises:
        VideoError: it does not accept it, with its reason and in its words.
    """
    _stat(path)
    facts = {"jumps": ""} | _decode(path, reader, seconds)
    names = ("width", "height", "fps", "repeated_run")
    reason = judge(
        declared=facts["frames_declared"],
        decoded=facts["frames_decoded"],
        min_frames=min_frames,
        max_repeated_run=max_repeated_run,
        **{name: facts[name] for name in names},
    )
    if reason:
        raise VideoError(reason, f"{path}: {REASONS[reason]}")
    return facts


def _stat(path: Path) -> dict[str, int]:
    if refused := refusal(path):
        raise VideoError(*refused)
    found = path.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _decode(path: Path, reader: str, seconds: float) -> dict[str, Any]:
    return _by_decord(path) if reader == "decord" else _by_pyav(path, seconds)


def _by_pyav(path: Path, seconds: float) -> dict[str, Any]:
    name = os.path.abspath(path)  # noqa: PTH100 - a leading "/" keeps FFmpeg from seeing a protocol
    sniff(name)
    until = time.monotonic() + PROOF_SHARE * seconds
    found = survey(name)
    count = len(found.digests)
    jumps = prove(name, found, until - time.monotonic())
    if not jumps:
        confirm(name, found, until - time.monotonic())
    return {
        "frames_declared": max(found.expected, count),
        "frames_decoded": count,
        "repeated_run": found.repeated_run,
        "fps": found.fps,
        "width": found.width,
        "height": found.height,
        "rotation": found.rotation,
        "reader": "pyav",
        "jumps": jumps.text(),
    }


def _by_decord(path: Path) -> dict[str, Any]:
    """For what PyAV crashes on. Where frames do not decode decord repeats others silently, so it may repeat none."""
    with open_video(path, "decord") as video:
        run = longest = count = 0
        previous: np.ndarray | None = None
        for frame in video.all_frames():
            run = run + 1 if previous is not None and np.array_equal(frame, previous) else 1
            longest, previous, count = max(longest, run), frame, count + 1
        if longest > 1:
            raise VideoError("crashed", "PyAV crashed, and decord repeats frames that may stand for missing ones")
        return {
            "frames_declared": video.num_frames,
            "frames_decoded": count,
            "repeated_run": longest,
            "fps": video.fps,
            "width": video.width,
            "height": video.height,
            "reader": "decord",
        }
