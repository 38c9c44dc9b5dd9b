"""Frames of files that nobody has verified, read in processes that are killed when they must be.

The chain decodes every video once at ingest, within limits, before anything relies on it. What a user hands to `everest
predict` or `show` has not been through that: a decoder that hangs on it, crashes or eats all memory costs that video
alone.
"""

from __future__ import annotations

import os
import queue
import select
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.video import VideoError
from pipeline.data.video.listing import refusal
from pipeline.data.video.process import DecoderProcess, Limits
from pipeline.data.video.shrink import shrink
from pipeline.errors import EverestError

_MODULE = "pipeline.data.ingest.frames_worker"
#: Every length, and any repetition.
NO_RULE = (1, 1 << 30)


@dataclass
class _Seat:
    """A process, started again where it was ended, and the memory that its frames come through."""

    memory: IO[bytes]
    process: DecoderProcess | None = None


@dataclass(frozen=True)
class Accepted:
    """What ingest's measuring found in a video that it accepts."""

    frames: int
    fps: float
    jumps: str


#: Numbers of the frames that are wanted of a video.
Choice = Callable[[Accepted], Sequence[int]]


class IsolatedFrames:
    """Reads frames, from several threads at once. Its processes start with it: they are ready when the model is.

    Args:
        limits: of one video.
        rule: the fewest frames, and the longest run of equal ones, that ingest accepts.
        workers: processes side by side; more threads than that wait for one another.
    """

    def __init__(self, limits: Limits, workers: int = 2, rule: tuple[int, int] = NO_RULE) -> None:
        self._limits = limits
        self._rule = (limits.deadline_seconds, *rule)
        self._accepted: dict[Path, Accepted] = {}
        self._seats = [_Seat(os.fdopen(os.memfd_create("frames"), "r+b", buffering=0)) for _ in range(workers)]
        self._free: queue.SimpleQueue[_Seat] = queue.SimpleQueue()
        self._refused: dict[Path, VideoError] = {}
        # The kernel ends a process with the thread that started it: those that read come and go.
        self._starter = ThreadPoolExecutor(1)
        for seat in self._seats:
            self._start(seat)
            self._free.put(seat)

    def frames(self, file: Path, choose: Choice, short_side: int | None = None) -> tuple[Accepted, U8]:
        """What is known of one video, and some of its frames, uint8 RGB [n, H, W, 3].

        Args:
            choose: the numbers of the frames, ascending and each once.
            short_side: [pixels] larger frames are shrunk to it, as the cache's were.

        Raises:
            VideoError: it cannot be read, or its process was ended; asked again, the answer is the same at once.
        """
        if file in self._refused:
            raise self._refused[file]
        seat = self._free.get()
        try:
            if refused := refusal(file):
                raise VideoError(*refused)
            try:
                return self._ask(seat, file, "pyav", choose, short_side)
            except VideoError as error:
                if error.reason != "crashed":
                    raise
                return self._ask(seat, file, "decord", choose, short_side)
        except VideoError as error:
            self._refused[file] = error
            raise
        finally:
            self._free.put(seat)

    def close(self) -> None:
        """End all processes; whoever waits for one gets an error."""
        for seat in self._seats:
            if seat.process is not None:
                seat.process.kill()
        self._starter.shutdown()

    def _start(self, seat: _Seat) -> DecoderProcess:
        start = self._starter.submit(DecoderProcess, _MODULE, self._limits, (seat.memory.fileno(),))
        seat.process = start.result()
        return seat.process

    def _ask(self, seat: _Seat, file: Path, reader: str, choose: Choice, short_side: int | None) -> tuple[Accepted, U8]:
        """As :meth:`frames`, by one reader; frames are shrunk as they come."""
        process = seat.process or self._start(seat)
        try:
            if not process.ready:
                self._wait(process)
                process.ready = True
            known = self._accepted.get(file)
            opened = self._request(process, ["open", os.fspath(file), reader, known and asdict(known), self._rule])
            self._accepted[file] = accepted = Accepted(**opened)
            numbers = list(choose(accepted))
            self._request(process, ["pick", numbers])
            portions: list[U8] = []
            due = None
            while (have := sum(map(len, portions))) < len(numbers):
                # Being accepted may take what it may at ingest; reading as long once more, all portions together.
                shape = self._request(process, ["next", seat.memory.fileno()], due)["shape"]
                due = process.due
                if not shape[0]:
                    raise VideoError("undecodable", f"{file}: {have} of {len(numbers)} frames came")
                portions.append(self._portion(seat, shape, short_side))
                if portions[-1][0].nbytes * len(numbers) > self._limits.memory_bytes:
                    raise VideoError("memory", f"{file}: {self._limits.said('memory')}")
            return accepted, np.concatenate(portions)
        except (TimeoutError, EOFError) as end:
            reason = "deadline" if isinstance(end, TimeoutError) else process.died_of()
            complaint = process.complaint()
            process.kill()
            seat.process = None
            if not process.ready:
                raise EverestError(
                    f"a decoding process did not start: {complaint[-400:]} Cure: `everest doctor`."
                ) from None
            raise VideoError(reason, f"{file}: {self._limits.said(reason)}") from None

    def _request(self, process: DecoderProcess, request: list[Any], due: float | None = None) -> dict[str, Any]:
        """The answer to a request; with `due` its clock goes on instead of starting."""
        process.send(request)
        process.due = due or process.due
        answer = self._wait(process)
        if "error" in answer:
            raise VideoError(answer["reason"], answer["error"])
        return answer

    @staticmethod
    def _portion(seat: _Seat, shape: list[int], short_side: int | None) -> U8:
        """Frames from the seat's memory, which the next portion is written to: shrunk, or copied."""
        # Mapped privately, so that torch may have it without a warning.
        mapped = np.memmap(f"/proc/self/fd/{seat.memory.fileno()}", np.uint8, "c", shape=tuple(shape))
        pictures = np.asarray(mapped)
        shrunk = pictures if short_side is None else shrink(pictures, short_side)
        return shrunk.copy() if shrunk is pictures else shrunk

    def _wait(self, process: DecoderProcess) -> dict[str, Any]:
        """Its next answer.

        Raises:
            TimeoutError: none until it is due.
            EOFError: it has ended.
        """
        while True:
            found, _, _ = select.select([process.output], [], [], max(0.0, process.due - time.monotonic()))
            if not found:
                raise TimeoutError
            answer = process.receive()
            if answer is not None:
                return answer
