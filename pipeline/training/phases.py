"""Where the time of a training step goes: marks on the clock of the device that works, read when it is done.

A mark costs a CPU about a microsecond and a GPU an event in its stream; neither waits for anything. On a GPU the marks
are on the device's own time: `loading` is then the time for which the device stood still for want of a batch.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Protocol

import torch

#: The parts of a step, by the names that the heartbeat uses, and what reports call them.
PARTS = {
    "loading": "loader",
    "forward": "forward",
    "backward": "backward",
    "exchange": "communication",
    "updating": "optimizer",
}


class Clock(Protocol):
    """Marks, and the seconds between two of them once the device has passed both."""

    def mark(self) -> Any: ...
    def seconds(self, before: Any, after: Any) -> float: ...


class HostClock:
    """For a CPU, where what was called is done."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, before: float, after: float) -> float:
        return after - before


class CudaClock:
    """Events in the stream that computes."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        return before.elapsed_time(after) / 1e3


class NoClock:
    """Turned off: what the others cost is measured against it."""

    def mark(self) -> None:
        return None

    def seconds(self, before: None, after: None) -> float:
        return 0.0


def clock_of(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock()


class Marks:
    """The marks of one step, in order: what began when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[str, Any]] = []

    def begin(self, part: str) -> None:
        """A part of the step begins here, and the one before it ends."""
        self._marks.append((part, self._clock.mark()))

    def seconds(self) -> dict[str, float]:
        """[s] of each part, summed over micro-steps; the last mark only ends. Call it when the device is done."""
        found = dict.fromkeys(PARTS.values(), 0.0)
        for (part, before), (_, after) in itertools.pairwise(self._marks):
            found[PARTS[part]] += self._clock.seconds(before, after)
        return found
