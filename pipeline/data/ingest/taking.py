"""Frames of a video taken in the very pass that says whether ingest accepts it, in a process that may be killed.

:func:`expect` says what the file promises, from which frames are chosen; :func:`take` decodes it and keeps those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.ingest.measure import accept_watched, file_facts
from pipeline.data.ingest.reading import PORTION
from pipeline.data.ingest.verdicts import Rule
from pipeline.data.video import VideoError
from pipeline.data.video.stream import COUNTED, in_order, open_stream, packets, rate_of, sniff
from pipeline.data.video.survey import PacketTally

#: [bytes] of a picture: two decoders of larger ones side by side would hold too many of them.
LARGEST = PORTION // 8


class Expected(NamedTuple):
    """What a file promises: frames, their rate, bytes of one as RGB; 0 frames where nothing can be told cheaply."""

    frames: int = 0
    fps: float = 0.0
    frame_bytes: int = 0

    def fits(self, count: int) -> bool:
        """Whether so many of its frames can be handed over together."""
        return 0 < self.frame_bytes <= LARGEST and 0 < count * self.frame_bytes <= PORTION


class Taken(NamedTuple):
    """What ingest measures of an accepted video, and the shape of the frames that were kept, [] where not all came."""

    frames: int
    fps: float
    shape: list[int]


class Keeper:
    """A watcher of a pass that writes some of its frames to a file.

    Args:
        numbers: of the frames, ascending.
    """

    short_side: int | None = None

    def __init__(self, numbers: Sequence[int], file: IO[bytes]) -> None:
        self._waiting = set(numbers)
        self._file = file
        self._written = 0
        self._shape: tuple[int, ...] = ()

    def begin(self, rate: float, expected: int) -> None:
        """Nothing to be done: what is wanted is known."""

    def wants(self, number: int) -> bool:
        return number in self._waiting

    def frame(self, frame_HWC: U8) -> None:
        if (self._written + 1) * frame_HWC.nbytes <= PORTION:
            self._file.write(np.ascontiguousarray(frame_HWC).data)
            self._shape, self._written = frame_HWC.shape, self._written + 1

    @property
    def shape(self) -> list[int]:
        """Of all wanted frames [n, H, W, 3]; [] where one is missing."""
        return [self._written, *self._shape] if self._written == len(self._waiting) else []


def expect(file: str) -> Expected:
    """What a file promises by its header and its packets; nothing of it is decoded."""
    try:
        if file_facts(Path(file)).bytes > COUNTED:
            return Expected()
        sniff(file)
        container, stream = open_stream(file)
        with container:
            size = 3 * stream.codec_context.width * stream.codec_context.height
            tally = PacketTally()
            for _ in tally.count(packets(container, stream, file)):
                pass
            fps = rate_of(in_order(tally.stored)[tally.early :], stream)
            return Expected(len(tally.stored) - tally.early, fps, size) if fps else Expected()
    except VideoError:
        return Expected()  # decoding will say why


def take(file: str, seconds: float, rule: tuple[int, int], numbers: Sequence[int], target: int) -> Taken:
    """Decode a file that ingest accepts, and write its frames of these numbers to the descriptor `target`.

    Args:
        rule: the values of a :class:`pipeline.data.ingest.verdicts.Rule`.

    Raises:
        VideoError: it cannot be read, or ingest does not accept it.
    """
    with open(target, "r+b", closefd=False) as written:
        written.seek(0)
        keeper = Keeper(numbers, written)
        facts = accept_watched(Path(file), seconds, Rule(*rule), keeper)
    return Taken(facts.frames_decoded, facts.fps, keeper.shape)
