"""The device that params.yaml is written for: the one named, or what this machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.efficiency.meters import DEVICES, Device, known_device
from pipeline.errors import InputError
from pipeline.planning.plan import Planner, check_device
from pipeline.preflight.machine import visible_gpus

AUTO = "auto"


@dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Attributes:
        key: as `everest plan --gpu` takes it.
        count: devices; on a CPU one process, which has all cores.
        planner: predicts what they take.
        reason: why these.
    """

    key: str
    count: int
    planner: Planner
    reason: str

    @property
    def device(self) -> Device:
        return self.planner.device

    @property
    def is_cpu(self) -> bool:
        return self.key == "cpu"


def machine(key: str, count: int | None) -> Machine:
    """The devices to plan for.

    Args:
        key: of the planner's table, `cpu`, or AUTO for what is here.
        count: None for all that are here, or one of a kind that is named.

    Raises:
        InputError: an unknown device, or none of them.
    """
    reason = "named"
    if key == AUTO:
        gpus = visible_gpus()
        key, reason = (_key_of_gpu(), f"{gpus} visible here") if gpus else ("cpu", "no GPU is visible here")
        count = count or gpus or 1
    count = 1 if count is None else count
    check_device(key, count)
    return Machine(key, count, Planner(key, count), reason)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _key_of_gpu() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        reported = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    finally:
        pynvml.nvmlShutdown()
    known = known_device(reported)
    for key, device in DEVICES.items():
        if device == known:
            return key
    raise InputError(
        f"this machine's {reported} is not in the planner's table ({', '.join(DEVICES)}). "
        "Cure: --device with the one that is most like it."
    )
