"""Reads frames of one video after another, in a process that may be killed at any moment; `isolated` asks for them.

:func:`open_accepted` says what the video holds, :func:`choose` what is wanted of it, then :func:`next_frames` is called
until all has come: so few frames at a time that neither side ever holds those of a large video at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.ingest.measure import accept
from pipeline.data.ingest.verdicts import Rule
from pipeline.data.video import VideoReader, open_video

#: [bytes] of frames that are handed over together, and at least one frame.
PORTION = 64 << 20


class Accepted(NamedTuple):
    """What ingest's measuring finds in a video that it accepts."""

    frames: int
    fps: float
    jumps: str


_video: VideoReader | None = None
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
    global _video, _pictures
    _pictures = iter(())
    if _video is not None:
        _video.close()
        _video = None
    if known is None:
        facts = accept(Path(file), reader, seconds, Rule(*rule))
        known = (facts.frames_decoded, facts.fps, facts.jumps)
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
