"""The GPUs of this machine, asked from NVML: no process on them notices."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from pipeline.distributed.device_table import DeviceTable
from pipeline.distributed.devices import lock_name
from pipeline.status.records import Gpu
from pipeline.system.locks import Holder


def gpus(held: Mapping[str, str]) -> list[Gpu]:
    """Each GPU's load, memory and processes; [] where there is none, or no driver.

    Args:
        held: who has which, by the names of lock files.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        cards = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            busy = watts = None
            pids: list[int] = []
            with contextlib.suppress(pynvml.NVMLError):  # not told of a slice (MIG) of a GPU
                busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            with contextlib.suppress(pynvml.NVMLError):
                watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
            with contextlib.suppress(pynvml.NVMLError):
                pids = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            text = name.decode() if isinstance(name, bytes) else str(name)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
            by = held.get(lock_name(uuid), "")
            cards.append(Gpu(index, text, busy, memory.used / 2**30, memory.total / 2**30, watts, pids, uuid, by))
        return cards
    except pynvml.NVMLError:
        return []
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def held_by(table: DeviceTable) -> dict[str, str]:
    """Who has which GPU, in words, by the names of lock files."""
    return {one.device: holder_words(one.holder) for one in table.held}


def holder_words(who: Holder | None) -> str:
    """A stage that has a device, as a person looks for it."""
    if who is None:
        return "a process that does not say who it is"
    when = time.strftime(
        "%H:%M" if time.time() - who.since < 12 * 3600 else "%Y-%m-%d %H:%M", time.localtime(who.since)
    )
    flow = f" of run {who.name}" if who.run != "no flow" else ""
    return f"{who.stage}{flow} in {who.folder} (process {who.pid}, since {when})"
