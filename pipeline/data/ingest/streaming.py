"""One pass over a video of any length that nobody has verified, in a process that is killed when it must be.

Unlike :mod:`pipeline.data.ingest.isolated`, which decodes a file whole before it relies on it: an hour of video is read
once here, and neither side ever holds more than one portion of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.frame_step import Step
from pipeline.data.ingest import reading
from pipeline.data.ingest.isolated import ingest_params, portion
from pipeline.data.ingest.process import Decoder, DecoderEnded, Limits
from pipeline.data.video import VideoError
from pipeline.data.video.listing import refusal

#: A portion takes a quarter of the deadline at most: slow machines and large frames are no reason to give up a video.
SHARE = 0.25


@dataclass(frozen=True)
class Portion:
    """Successive pictures of a pass.

    Attributes:
        pictures: uint8 RGB [n, H, W, 3], n 0 at the end.
        numbers, seconds: of each.
        passed: frames of the video so far; `until` is the time of the last one, in seconds.
    """

    pictures: U8
    numbers: list[int]
    seconds: list[float]
    passed: int
    until: float


class IsolatedPass:
    """Reads one video after another, each in one pass; `ingest.deadline_seconds` bounds each portion of it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = Decoder(limits)
        #: Frames per second of the video that is read, 0 if unknown.
        self.fps = 0.0

    @classmethod
    def by_params(cls) -> Self:
        """Under the limits of params.yaml's group `ingest`."""
        return cls(Limits.of(ingest_params()))

    def portions(self, file: Path, step: Step, short_side: int | None = None) -> Iterator[Portion]:
        """The frames of a video at a step of frames or seconds from its start to its end, with the times of all.

        Args:
            short_side: [pixels] larger frames are shrunk to it, as a cache's are.

        Raises:
            VideoError: it cannot be read, or not further, or its process was ended.
        """
        if refused := refusal(file):
            raise VideoError(*refused)
        begun = False
        try:
            for pictures in self._read(file, "pyav", step, short_side):
                begun = True
                yield pictures
        except VideoError as error:
            if begun or error.reason != "crashed":
                raise
            yield from self._read(file, "decord", step, short_side)

    def close(self) -> None:
        """End the process."""
        self._decoder.close()
        self._decoder.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, file: Path, reader: str, step: Step, short_side: int | None) -> Iterator[Portion]:
        decoder, share = self._decoder, SHARE * self._limits.deadline_seconds
        passed, until = 0, 0.0
        try:
            path = os.fspath(file.absolute())
            self.fps = decoder.ask(decoder.begin(), reading.start_pass, path, reader, step.entry)
            while True:
                stretch = decoder.ask(decoder.begin(), reading.next_of_pass, decoder.memory_number, share)
                passed, until = max(passed, stretch.passed), max(until, stretch.until)
                if not stretch.passed:
                    break
                if not stretch.shape[0]:
                    continue
                pictures = portion(decoder, stretch.shape, short_side)
                yield Portion(pictures, stretch.numbers, stretch.seconds, passed, until)
                del pictures
        except DecoderEnded as end:
            raise VideoError(end.reason, f"{file}: {end}") from None
        if not passed:
            raise VideoError("no_frames", f"{file}: not one frame decodes")
        yield Portion(np.zeros((0, 1, 1, 3), np.uint8), [], [], passed, until)
