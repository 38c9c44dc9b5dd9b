"""What one video file really holds: hashed, and decoded once from its first frame to its last."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import sha256_of
from pipeline.data.reasons import MISSING_SHARE
from pipeline.data.video import VideoError, open_video

#: Raised when a measurement changes its meaning, so that remembered ones are taken again.
VERSION = 2


@dataclass(frozen=True)
class Measurement:
    """One file's facts. `reason` is set only where measuring itself failed; frames are 0 then.

    `repeated_run` is the length of the longest run of equal neighbouring frames: 1 where all differ.
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
    repeated_run: int = 0
    reason: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(path: Path, readers: tuple[str, ...] = ("decord", "pyav")) -> Measurement:
    """Measure one file. Never raises for a bad file: the measurement's `reason` says what is wrong.

    Args:
        path: any file.
        readers: those to try, in order; the other one counts frames where decord repeats some.
    """
    facts: dict[str, Any] = {}
    try:
        facts |= _stat(path)
        facts["sha256"] = sha256_of(path)
        return Measurement(**facts, **_decode(path, readers))
    except VideoError as error:
        return Measurement(**facts, reason=error.reason, message=str(error))
    except MemoryError:
        return Measurement(**facts, reason="memory", message="the decoder ran out of its memory limit")
    except FileNotFoundError:
        reason = "not_a_file" if path.is_symlink() else "missing"
        return Measurement(reason=reason, message=f"{path} does not exist")
    except OSError as error:
        return Measurement(**facts, reason="unreadable", message=f"{path}: {error.strerror or error}")


def _stat(path: Path) -> dict[str, int]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise VideoError("not_a_file", f"{path} is not a regular file")
    if not os.access(path, os.R_OK):
        raise VideoError("unreadable", f"{path}: no permission to read it")
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _decode(path: Path, readers: tuple[str, ...]) -> dict[str, Any]:
    declared, rotation, error = _header(path)
    for reader in readers:
        try:
            found = _one_pass(path, reader)
        except VideoError as failure:
            error = error or failure if reader == "decord" else failure
            continue
        if reader == "decord" and (found["repeated_run"] > 1 or found["frames_decoded"] < declared):
            # Equal neighbours may be a still scene, or decord standing in for frames that do not decode;
            # and some headers make it stop early. The other reader counts honestly.
            declared = max(declared, found["frames_decoded"])
            second = _one_pass(path, "pyav")
            if second["frames_decoded"] != found["frames_decoded"]:
                found = second
        return found | {"frames_declared": max(declared, found["frames_decoded"]), "rotation": rotation}
    raise error if error else VideoError("undecodable", f"{path}: no reader was tried")


def _header(path: Path) -> tuple[int, int, VideoError | None]:
    """Declared frames (0: none), rotation, and PyAV's error, which tells the reason better than decord's."""
    try:
        with open_video(path, "pyav") as header:
            return getattr(header, "declared", 0), header.rotation, None
    except VideoError as error:
        return 0, 0, error


def _one_pass(path: Path, reader: str) -> dict[str, Any]:
    with open_video(path, reader) as video:  # type: ignore[arg-type]
        frames = _Counted(video.all_frames())
        try:
            longest = _longest_run(frames)
        except VideoError as error:
            if 0 < frames.count < video.num_frames * (1 - MISSING_SHARE):
                told = f"{frames.count} of {video.num_frames} declared frames decode, then: {error}"
                raise VideoError("declared_more_than_decoded", told) from None
            raise
        return {
            "frames_decoded": frames.count,
            "repeated_run": longest,
            "fps": video.fps,
            "width": video.width,
            "height": video.height,
            "reader": video.reader,
        }


class _Counted:
    """Frames, counted as they pass."""

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self._frames = frames
        self.count = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            self.count += 1
            yield frame


def _longest_run(frames: Iterable[np.ndarray]) -> int:
    """Length of the longest run of equal neighbours; 1 where all differ, 0 without frames."""
    run = longest = 0
    previous: np.ndarray | None = None
    for frame in frames:
        run = run + 1 if previous is not None and _equal(frame, previous) else 1
        longest = max(longest, run)
        previous = frame
    return longest


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are the same. The bytes of the middle row tell most apart at hardly any cost."""
    middle = len(one) // 2
    return one[middle].tobytes() == other[middle].tobytes() and np.array_equal(one, other)
