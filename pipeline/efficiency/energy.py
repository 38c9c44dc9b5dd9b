"""Energy of this machine's GPUs or CPUs, counted without torch by the process that watches a training."""

from __future__ import annotations

import contextlib
import os

from pipeline.efficiency.meters import rapl_joules, rapl_packages


def visible_gpus() -> int:
    """GPUs that a process started now would see."""
    return len(_handles())


class MachineEnergy:
    """[Wh] since its creation, of the first `gpus` GPUs that are visible (NVML), or without any of the CPUs (RAPL)."""

    def __init__(self, gpus: int) -> None:
        self._handles = _handles()[:gpus]
        self._gpus = gpus
        self._began = self._joules()
        self._last = list(self._began or [])
        self._sum = 0.0

    def read(self) -> float | None:
        """None where the machine has no counter that this user may read. To be called more often than counters wrap."""
        now = self._joules()
        if self._began is None or now is None:
            return None
        for (before, limit), (after, _) in zip(self._last, now, strict=True):
            self._sum += after - before if after >= before else after + limit - before
        self._last = now
        return self._sum / 3600

    def _joules(self) -> list[tuple[float, float]] | None:
        """(joules, joules at which the counter wraps) of every counter."""
        if not self._gpus:
            return rapl_joules(rapl_packages())
        import pynvml

        try:
            return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3, 0.0) for h in self._handles] or None
        except pynvml.NVMLError:
            return None


def _handles() -> list[object]:
    """NVML's handles of the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; [] without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    handles: list[object] = []
    for word in map(str, range(count)) if visible is None else filter(None, visible.split(",")):
        with contextlib.suppress(pynvml.NVMLError):
            by_number = word.strip().isdigit()
            get = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
            handles.append(get(int(word) if by_number else word.strip()))
    return handles
