"""Where each rank of this machine is, in one small shared file.

A beat is a few bytes written to memory, without a system call. The process that launched the ranks reads it. It is not
itself part of any collective, so it sees a rank that hangs while the others wait for it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

PHASES = (
    "starting", "loading", "forward", "backward", "exchange", "updating", "saving", "validating", "evaluating",
    "finished", "looking",
)  # fmt: skip
_RECORD = struct.Struct("=qqqqd")
_STRIDE = 64


@dataclass(frozen=True)
class Beat:
    """One rank's last sign of life; `at` is the machine's monotonic clock in seconds."""

    rank: int
    pid: int
    step: int
    micro: int
    phase: str
    at: float

    @property
    def progress(self) -> tuple[int, int, int]:
        return self.step, self.micro, PHASES.index(self.phase)


class Pulse:
    """A rank's own line. `path` None makes a pulse that goes nowhere."""

    def __init__(self, path: Path | None, local_rank: int = 0, rank: int = 0) -> None:
        self._offset = local_rank * _STRIDE
        self._rank = rank
        self._memory: mmap.mmap | None = None
        self.step = 0
        if path is not None:
            with path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), 0)
        self.beat("starting")

    def beat(self, phase: str, step: int = 0, micro: int = 0) -> None:
        self.step = step
        if self._memory is not None:
            record = (os.getpid(), self._rank, step, micro * 16 + PHASES.index(phase), time.monotonic())
            # One copy of a finished record: `pack_into` wipes the place first, and whoever read it then saw time 0.
            self._memory[self._offset : self._offset + _RECORD.size] = _RECORD.pack(*record)


def create(path: Path, local_ranks: int) -> None:
    """A file without beats, for ranks to open."""
    path.write_bytes(b"\0" * (_STRIDE * local_ranks))


def read(path: Path) -> list[Beat]:
    """The beats of all ranks that gave one."""
    data = path.read_bytes()
    beats = []
    for offset in range(0, len(data), _STRIDE):
        pid, rank, step, packed, at = _RECORD.unpack_from(data, offset)
        if pid:
            beats.append(Beat(rank, pid, step, packed // 16, PHASES[packed % 16], at))
    return beats


def stalled(beats: list[Beat], limit_seconds: float, awake: float = 0.0, now: float | None = None) -> list[Beat]:
    """The ranks that hold up the others, or none while any rank moves.

    The first step (data loading from cold, compilation) is given four times the limit.

    Args:
        awake: since when nobody has been kept from running.
    """
    now = time.monotonic() if now is None else now
    if not beats or all(beat.phase == "finished" for beat in beats):
        return []
    newest = max(awake, *(beat.at for beat in beats))
    limit = limit_seconds * (4 if min(beat.step for beat in beats) == 0 else 1)
    if now - newest < limit:
        return []
    behind = min(beat.progress for beat in beats)
    return [beat for beat in beats if beat.progress == behind]


def gone(beats: list[Beat]) -> list[Beat]:
    """Ranks whose process ended before it said that it had finished."""
    return [beat for beat in beats if beat.phase != "finished" and not lives(beat.pid)]


def lives(pid: int) -> bool:
    """Whether a process is there; one that only waits to be noticed by its parent is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in (b"Z", b"X")


def finished(beats: list[Beat], ranks: int, seconds: float) -> bool:
    """Whether all ranks of this machine ended at least so long ago."""
    ended = [beat.at for beat in beats if beat.phase == "finished"]
    return len(ended) == ranks and time.monotonic() - max(ended) > seconds
