"""A trace by torch's profiler of some steps of a training, where EVEREST_TRACE_STEPS asks for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError

log = logging.getLogger(__name__)

VARIABLE = "EVEREST_TRACE_STEPS"
#: Steps before the trace: they compile, allocate and warm up.
SKIPPED = 3


def trace_steps() -> int:
    """How many steps the environment asks to trace; 0 for none."""
    text = os.environ.get(VARIABLE, "0")
    if not text.isdigit():
        raise InputError(f"{VARIABLE} = {text!r}: expected a number of steps. Cure: {VARIABLE}=5.")
    return int(text)


class Trace:
    """Records `steps` steps after the first few into `folder/trace.json` (Chrome's format) and `operators.txt`.

    Use as a context manager around the training; :meth:`step` is called after each step. Inert for 0 steps.
    """

    def __init__(self, folder: Path, steps: int, device: torch.device) -> None:
        self._folder = folder
        self._profiler: Any = None
        if steps:
            from torch.profiler import ProfilerActivity, profile, schedule

            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> Trace:
        if self._profiler is not None:
            self._profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(*error)
            if not self._folder.exists():
                log.warning("no trace: it takes more than %d steps, and this training made fewer.", SKIPPED)

    def step(self) -> None:
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
        (self._folder / "operators.txt").write_text(table, encoding="utf-8")
