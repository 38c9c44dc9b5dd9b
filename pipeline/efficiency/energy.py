"""Energy of this machine's GPUs or CPUs, counted without torch by the process that watches a training."""

from __future__ import annotations

import contextlib

from pipeline.efficiency.gpus import visible
from pipeline.efficiency.meters import Joules, joules_between, rapl_joules, rapl_packages


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
        self._sum += joules_between(self._last, now)
        self._last = now
        return self._sum / 3600

    def _joules(self) -> Joules | None:
        if not self._gpus:
            return rapl_joules(rapl_packages())
        import pynvml

        try:
            return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3, 0.0) for h in self._handles] or None
        except pynvml.NVMLError:
            return None


def _handles() -> list[object]:
    """NVML's handles of the GPUs that a process started now would see; [] without a driver."""
    import pynvml

    handles: list[object] = []
    if names := visible():
        pynvml.nvmlInit()
        for name in names:
            with contextlib.suppress(pynvml.NVMLError):  # a slice (MIG) has no counter of its own
                handles.append(pynvml.nvmlDeviceGetHandleByUUID(name))
    return handles
