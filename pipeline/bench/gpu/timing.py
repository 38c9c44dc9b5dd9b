"""Times of a device: events or a synchronised clock, warmed up, medians; and its two ceilings."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")
GIB = 2**30


def median_seconds(run: Callable[[], object], device: torch.device, count: int, warm_up: int = 3) -> float:
    """[s] of a call, the median of `count` after some that warm up, on the device's own clock."""
    for _ in range(warm_up):
        run()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(count):
            run()
            marks.append(time.perf_counter())
        return statistics.median(after - before for before, after in itertools.pairwise(marks))
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize(device)
    return statistics.median(before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events))


def matmul_flops(device: torch.device, kind: torch.dtype = torch.bfloat16) -> float:
    """[FLOP/s] of a large product of random matrices."""
    size = 8192 if device.type == "cuda" else 256
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
    return round(torch.cuda.max_memory_allocated(device) / GIB, 3) if device.type == "cuda" else None


def reserved_gib(device: torch.device) -> float | None:
    """[GiB] the most that the allocator held since `reset_peak`, with what pools of CUDA graphs keep to themselves."""
    return round(torch.cuda.max_memory_reserved(device) / GIB, 3) if device.type == "cuda" else None


def largest_batch(run: Callable[[int], Result], start: int) -> Result:
    """What `run` gave for the first of `start`, its half and so on that fits in memory.

    Raises:
        RuntimeError: not even one clip fits, or it is not for want of memory.
    """
    while True:
        try:
            return run(start)
        except RuntimeError as error:
            full = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)  # the second is cuBLAS's
            if start == 1 or not full:
                raise
        # Outside the handler: the exception holds the frames, and they hold the memory.
        start //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
