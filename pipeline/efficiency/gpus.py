"""Which GPUs a process started now would see, asked from the driver without torch."""

from __future__ import annotations

import os


def visible() -> list[str]:
    """Their names for CUDA_VISIBLE_DEVICES, the same to every process (UUIDs); [] without a GPU or a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        every = [str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(n))) for n in range(count)]
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return every
    # CUDA stops at the first number that it does not know; names (GPU-..., MIG-...) count as one each.
    seen: list[str] = []
    for name in (part.strip() for part in chosen.split(",")):
        if not name or name.startswith("-") or (name.isdigit() and int(name) >= count):
            break
        seen.append(every[int(name)] if name.isdigit() else name)
    return seen
