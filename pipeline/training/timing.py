"""Where the time of a training step goes: marks on the device's clock, always, and a profiler's trace on request.

Marks are read when the device is done. A mark costs a CPU about a microsecond and a GPU an event in its stream; neither
waits for anything. On a GPU the marks are on the device's own time: `loading` is then the time for which the device
stood still for want of a batch.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pipeline.errors import InputError

if TYPE_CHECKING:
    from types import TracebackType

    from torch.profiler import profile

log = logging.getLogger(__name__)

#: The parts of a step, by the names that the heartbeat uses, and what reports call them.
PARTS = {
    "loading": "loader",
    "forward": "forward",
    "backward": "backward",
    "exchange": "communication",
    "updating": "optimizer",
}

#: How many steps are traced, in the environment.
TRACE_STEPS = "EVEREST_TRACE_STEPS"
#: Steps before the trace: they compile, allocate and warm up.
UNTRACED = 3


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
        return float(before.elapsed_time(after)) / 1e3


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
        spent = dict.fromkeys(PARTS.values(), 0.0)
        for (part, before), (_, after) in itertools.pairwise(self._marks):
            spent[PARTS[part]] += self._clock.seconds(before, after)
        return spent


def trace_steps() -> int:
    """How many steps the environment asks to trace; 0 for none."""
    text = os.environ.get(TRACE_STEPS, "0")
    if not text.isdigit():
        raise InputError(f"{TRACE_STEPS} = {text!r}: expected a number of steps. Cure: {TRACE_STEPS}=5.")
    return int(text)


class Trace:
    """A trace by torch's profiler of `steps` steps after the first few.

    It goes into `folder/trace.json` (Chrome's format) and `operators.txt`. Use as a context manager around the
    training; :meth:`step` is called after each step. Inert for 0 steps.
    """

    def __init__(self, folder: Path, steps: int, device: torch.device) -> None:
        self._folder = folder
        self._profiler: profile | None = None
        if steps:
            from torch.profiler import ProfilerActivity, profile, schedule

            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=UNTRACED - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> Trace:
        if self._profiler is not None:
            self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(kind, error, where)
            if not self._folder.exists():
                log.warning("no trace: it takes more than %d steps, and this training made fewer.", UNTRACED)

    def step(self) -> None:
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
        (self._folder / "operators.txt").write_text(table, encoding="utf-8")
