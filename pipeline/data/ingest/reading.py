"""Reads frames of one video after another, in a process that may be killed at any moment; `isolated` asks for them.

:func:`open_accepted` says what the video holds, :func:`choose` what is wanted of it, then :func:`next_frames` is called
until all has come: so few frames at a time that neither side ever holds those of a large video at once.

:func:`start_pass` and :func:`next_of_pass` read a video of any length in one pass, without measuring it before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.frame_step import Step
from pipeline.data.ingest.measure import accept
from pipeline.data.ingest.verdicts import Measurement, Rule
from pipeline.data.video import VideoError, VideoReader, open_video
from pipeline.data.video.reader import Timed

#: [bytes] of frames that are handed over together, and at least one frame.
PORTION = 64 << 20
#: [bytes] as much of a pass: each side holds several copies of a portion for a moment.
PASS_PORTION = 16 << 20


class Accepted(NamedTuple):
    """What ingest's measuring finds in a video that it accepts."""

    frames: int
    fps: float
    jumps: str

    @classmethod
    def of(cls, measured: Measurement) -> Accepted:
        """Of a measurement that ingest accepts."""
        return cls(measured.frames_decoded, measured.fps, measured.jumps)


class Stretch(NamedTuple):
    """The next frames of a pass.

    Attributes:
        shape: of the pictures [n, H, W, 3]; [0] when none is left, or none came before a frame that does not decode.
        numbers, seconds: of the pictures.
        passed: frames that have gone by since the start, with those without a picture.
        until: seconds, when the last of those was shown.
    """

    shape: list[int]
    numbers: list[int]
    seconds: list[float]
    passed: int
    until: float


_video: VideoReader | None = None
_pass: Iterator[Timed] = iter(())
_failure: VideoError | None = None
_pictures: Iterator[np.ndarray] = iter(())


def open_accepted(
    file: str, reader: str, seconds: float, rule: tuple[int, int], known: tuple[int, float, str] | None
) -> Accepted:
    """Open a video that ingest accepts.

    Args:
        rule: the values of a :class:`pipeline.data.ingest.verdicts.Rule`.
        known: the values of what this returned before for the same video.

    Raises:
        VideoError: it cannot be read, or ingest does not accept it.
    """
    global _video
    _close()
    if known is None:
        known = Accepted.of(accept(Path(file), reader, seconds, Rule(*rule)))
    accepted = Accepted(*known)
    _video = open_video(file, reader, accepted.frames, accepted.jumps)
    return accepted


def choose(numbers: Sequence[int]) -> None:
    """Say which frames of the open video are to come, by their ascending numbers."""
    global _pictures
    assert _video is not None
    _pictures = _video.pick(numbers)


def next_frames(target: int) -> list[int]:
    """Write the next frames to the descriptor `target`; returns their shape, [0] when none is left."""
    shape: tuple[int, ...] = ()
    written = 0
    with open(target, "r+b", closefd=False) as file:
        file.seek(0)
        for picture in _pictures:
            file.write(np.ascontiguousarray(picture).data)
            shape, written = picture.shape, written + 1
            if (written + 1) * picture.nbytes > PORTION:
                break
    return [written, *shape]


def start_pass(file: str, reader: str, step: int | str) -> float:
    """Open a video whose frames at a `Step.entry` :func:`next_of_pass` gives; its frames per second, 0 if unknown.

    Raises:
        VideoError: it does not open.
    """
    global _video, _pass
    _close()
    _video = open_video(file, reader)
    fps = _video.fps
    _pass = _video.every(Step.parse(step).of(0, fps or 25.0))
    return fps


def next_of_pass(target: int, seconds: float) -> Stretch:
    """Write the next pictures of the pass to the descriptor `target`, for so many seconds at most.

    Raises:
        VideoError: a frame does not decode; what decoded before it has been given.
    """
    global _failure
    if _failure is not None:
        raise _failure
    due = time.monotonic() + seconds
    shape: tuple[int, ...] = ()
    numbers: list[int] = []
    times: list[float] = []
    passed, until = 0, 0.0
    with open(target, "r+b", closefd=False) as file:
        file.seek(0)
        try:
            for frame in _pass:
                passed, until = frame.number + 1, frame.seconds
                if frame.picture is None:
                    continue
                file.write(np.ascontiguousarray(frame.picture).data)
                shape = frame.picture.shape
                numbers.append(frame.number)
                times.append(frame.seconds)
                if (len(numbers) + 1) * frame.picture.nbytes > PASS_PORTION or time.monotonic() > due:
                    break
        except VideoError as error:
            if not passed:
                raise
            _failure = error
    return Stretch([len(numbers), *shape], numbers, times, passed, until)


def _close() -> None:
    global _video, _pictures, _pass, _failure
    _pictures, _pass, _failure = iter(()), iter(()), None
    if _video is not None:
        _video.close()
        _video = None
