"""Times of a device: events or a synchronised clock, warmed up, medians; and its two ceilings."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30


def step_seconds(run: Callable[[], Any], device: torch.device, count: int, warm_up: int = 3) -> list[float]:
    """[s] of each of `count` calls after some that warm up, on the device's own clock."""
    for _ in range(warm_up):
        run()
    if device.type != "cuda":
        found = []
        for _ in range(count):
            began = time.perf_counter()
            run()
            found.append(time.perf_counter() - began)
        return found
    torch.cuda.synchronize(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(marks)]


def median_seconds(run: Callable[[], Any], device: torch.device, count: int, warm_up: int = 3) -> float:
    return statistics.median(step_seconds(run, device, count, warm_up))


def matmul_flops(device: torch.device, size: int = 8192, kind: torch.dtype = torch.bfloat16) -> float:
    """[FLOP/s] of a large product of random matrices."""
    size = size if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, device, 10)


def copy_bytes(device: torch.device) -> float:
    """[byte/s] of a copy on the device, read and written counted."""
    count = 2 * GIB if device.type == "cuda" else 2**22
    values = torch.empty(count, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(values)
    return 2 * count / median_seconds(lambda: target.copy_(values), device, 10)


def upload_bytes(device: torch.device, pinned: bool) -> float:
    """[byte/s] of a copy from the host to the device."""
    count = GIB if device.type == "cuda" else 2**22
    values = torch.empty(count, dtype=torch.uint8, pin_memory=pinned and device.type == "cuda").random_()
    target = torch.empty(count, dtype=torch.uint8, device=device)
    return count / median_seconds(lambda: target.copy_(values, non_blocking=True), device, 5)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """[GiB] the most that was allocated on the device since `reset_peak`; None on a CPU, which does not count it."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def largest_batch(run: Callable[[int], Any], start: int) -> tuple[int, Any]:
    """The first of `start`, its half and so on that fits in memory, and what `run` gave for it.

    Raises:
        RuntimeError: not even one clip fits, or it is not for want of memory.
    """
    while True:
        try:
            return start, run(start)
        except RuntimeError as error:
            full = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)  # the second is cuBLAS's
            if start == 1 or not full:
                raise
        # Outside the handler: the exception holds the frames, and they hold the memory.
        start //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
