"""Frames of files that nobody has verified, read in processes that are killed when they must be.

The chain decodes every video once at ingest, within limits, before anything relies on it. What a user hands to `everest
predict` or `show` has not been through that: a decoder that hangs on it, crashes or eats all memory costs that video
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.ingest import reading, taking
from pipeline.data.ingest.process import Decoder, DecoderEnded, Decoders, Limits
from pipeline.data.ingest.reading import Accepted
from pipeline.data.ingest.verdicts import Rule
from pipeline.data.video import VideoError
from pipeline.data.video.listing import refusal
from pipeline.data.video.shrink import shrink
from pipeline.params import IngestParams, load_params
from pipeline.recipes import PARAMS, recipe_path

#: Numbers of the frames that are wanted of a video.
Choice = Callable[[Accepted], Sequence[int]]
ANYTHING = Rule()


class IsolatedFrames:
    """Reads frames, from several threads at once. Its processes start with it: they are ready when the model is.

    Args:
        limits: of one video.
        workers: processes side by side; more threads than that wait for one another.
        rule: what ingest accepts.
        accepted: what is known of videos that ingest has accepted before, so that they are not decoded whole again.
    """

    def __init__(
        self,
        limits: Limits,
        workers: int = 2,
        rule: Rule = ANYTHING,
        accepted: Mapping[Path, Accepted] | None = None,
    ) -> None:
        self._limits = limits
        self._rule = rule
        self._decoders = Decoders(limits, workers)
        self._accepted: dict[Path, Accepted] = dict(accepted or {})
        self._refused: dict[Path, VideoError] = {}

    @classmethod
    def by_params(cls, workers: int = 2, accepted: Mapping[Path, Accepted] | None = None) -> Self:
        """Under the limits and rules of :func:`ingest_params`."""
        params = ingest_params()
        return cls(Limits.of(params), workers, Rule(params.min_frames, params.max_repeated_run), accepted)

    def frames(self, file: Path, choice: Choice, short_side: int | None = None) -> tuple[Accepted, U8]:
        """What is known of one video, and some of its frames, uint8 RGB [n, H, W, 3].

        Args:
            choice: gives the numbers of the frames, ascending and each once.
            short_side: [pixels] larger frames are shrunk to it, as the cache's were.

        Raises:
            VideoError: it cannot be read, or its process was ended; asked again, the answer is the same at once.
        """
        if file in self._refused:
            raise self._refused[file]
        try:
            if refused := refusal(file):
                raise VideoError(*refused)
            with self._decoders.borrow() as decoder:
                try:
                    return self._read(decoder, file, "pyav", choice, short_side)
                except VideoError as error:
                    if error.reason != "crashed":
                        raise
                    return self._read(decoder, file, "decord", choice, short_side)
        except VideoError as error:
            self._refused[file] = error
            raise

    def forget(self, file: Path) -> None:
        """Drop what is known of a video: its file may be another one next time."""
        self._accepted.pop(file, None)
        self._refused.pop(file, None)

    def close(self) -> None:
        """End all processes; whoever waits for one gets an error."""
        self._decoders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self, decoder: Decoder, file: Path, reader: str, choice: Choice, short_side: int | None
    ) -> tuple[Accepted, U8]:
        """As :meth:`frames`, by one reader; frames are shrunk as they come."""
        seconds, known = self._limits.deadline_seconds, self._accepted.get(file)
        try:
            if known is None and reader == "pyav":
                taken = self._take(decoder, file, choice, short_side)
                if taken is not None:
                    return taken
                known = self._accepted.get(file)
            due = decoder.begin()
            accepted = decoder.ask(due, reading.open_accepted, os.fspath(file), reader, seconds, self._rule, known)
            self._accepted[file] = accepted
            numbers = list(choice(accepted))
            # Being accepted may take what it may at ingest; reading as long once more, all portions together.
            due = decoder.begin()
            decoder.ask(due, reading.choose, numbers)
            portions: list[U8] = []
            while (have := sum(map(len, portions))) < len(numbers):
                shape = decoder.ask(due, reading.next_frames, decoder.memory_number)
                if not shape[0]:
                    raise VideoError("undecodable", f"{file}: {have} of {len(numbers)} frames came")
                portions.append(portion(decoder, shape, short_side))
                if portions[-1][0].nbytes * len(numbers) > self._limits.memory_bytes:
                    raise VideoError("memory", f"{file}: {self._limits.message('memory')}")
        except DecoderEnded as end:
            raise VideoError(end.reason, f"{file}: {end}") from None
        return accepted, np.concatenate(portions)

    def _take(self, decoder: Decoder, file: Path, choice: Choice, short_side: int | None) -> tuple[Accepted, U8] | None:
        """As :meth:`_read`, in one pass, which both accepts the video and gives its frames.

        Which frames are wanted has to be known before: they are chosen by what the file promises.

        Returns:
            None: they do not fit into memory at once, or the file does not hold what it promises.

        Raises:
            VideoError: ingest does not accept it.
        """
        name, due = os.fspath(file.absolute()), decoder.begin()
        expected = decoder.ask(due, taking.expect, name)
        promised = Accepted(expected.frames, expected.fps, "")
        if not promised.frames:
            return None
        try:
            numbers = list(choice(promised))
        except VideoError:
            return None  # refused for what may not be so
        if not expected.fits(len(numbers)):
            return None
        seconds = self._limits.deadline_seconds
        taken = decoder.ask(due, taking.take, name, seconds, self._rule, numbers, decoder.memory_number)
        accepted = Accepted(taken.frames, taken.fps, "")
        self._accepted[file] = accepted
        if accepted != promised or not taken.shape:
            return None
        return accepted, portion(decoder, taken.shape, short_side)


def ingest_params() -> IngestParams:
    """The group `ingest` of params.yaml; without one, of the published recipes."""
    return load_params(PARAMS if PARAMS.exists() else recipe_path("ucf101")).ingest


def portion(decoder: Decoder, shape: list[int], short_side: int | None) -> U8:
    """Frames from the decoder's memory, which the next portion is written to: shrunk, or copied."""
    # Mapped privately, so that torch may have it without a warning.
    mapped = np.memmap(f"/proc/self/fd/{decoder.memory_number}", np.uint8, "c", shape=tuple(shape))
    pictures = np.asarray(mapped)
    shrunk = pictures if short_side is None else shrink(pictures, short_side)
    return shrunk.copy() if shrunk is pictures else shrunk
