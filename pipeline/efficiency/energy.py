"""Energy of this machine's GPUs or CPUs, counted without torch by the process that watches a training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pipeline.efficiency.meters import Joules, joules_between, rapl_joules, rapl_packages


class MachineEnergy:
    """[Wh] since its creation, of GPUs by their names (NVML), or without any of the CPUs (RAPL)."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._handles = _handles(gpus)
        self._gpus = len(gpus)
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


def _handles(names: Sequence[str]) -> list[object]:
    """NVML's handles of these GPUs; [] without a driver, or where they are another machine's."""
    import pynvml

    handles: list[object] = []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
    for name in names:
        with contextlib.suppress(pynvml.NVMLError):  # a slice (MIG) has no counter of its own
            handles.append(pynvml.nvmlDeviceGetHandleByUUID(name))
    return handles
