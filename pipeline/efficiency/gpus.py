"""Which GPUs a process started now would see, asked from the driver without torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

#: What this process holds for the ranks that it has started, the latest last.
_held: list[tuple[str, ...]] = []


@contextlib.contextmanager
def holding(names: Sequence[str]) -> Iterator[None]:
    """Say for the block that this process holds these GPUs; those of another machine by any names."""
    _held.append(tuple(names))
    try:
        yield
    finally:
        _held.remove(tuple(names))


def held() -> tuple[str, ...]:
    """The GPUs that this process holds now."""
    return _held[-1] if _held else ()


def installed() -> list[str]:
    """The UUIDs of the driver's GPUs, in its order; [] without a GPU or a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        uuids = [str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(n))) for n in range(count)]
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    return uuids


def visible() -> list[str]:
    """Their names for CUDA_VISIBLE_DEVICES, the same to every process (UUIDs); [] without a GPU or a driver."""
    every = installed()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not every:
        return every
    # CUDA stops at the first number that it does not know; names (GPU-..., MIG-...) count as one each.
    seen: list[str] = []
    for name in (part.strip() for part in chosen.split(",")):
        if not name or name.startswith("-") or (name.isdigit() and int(name) >= len(every)):
            break
        seen.append(every[int(name)] if name.isdigit() else name)
    return seen
