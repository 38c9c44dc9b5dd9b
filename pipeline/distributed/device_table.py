"""Who holds which GPU of this machine and who waits for some, found out without a lock.

Written for those who only look (`everest status`, Prefect's page): the lock files of `pipeline.distributed.devices` say
who took them, the kernel's list says whether they are still held.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.distributed.devices import lock_folder
from pipeline.system.files import read_json
from pipeline.system.locks import Holder, holder_in, holders


@dataclass(frozen=True)
class HeldDevice:
    """A device that a stage has: `device` as its lock file is named; `holder` is None where the file says no one."""

    device: str
    holder: Holder | None


@dataclass(frozen=True)
class WaitingStage:
    """A stage that waits for `count` devices, the one that has waited longest first."""

    count: int
    holder: Holder


@dataclass(frozen=True)
class DeviceTable:
    """All of it, in the order of names and of waiting."""

    held: tuple[HeldDevice, ...] = ()
    waiting: tuple[WaitingStage, ...] = ()


def device_table() -> DeviceTable:
    """As it is now; empty where no stage ever took a GPU."""
    folder = lock_folder()
    held = [HeldDevice(path.stem, holder_in(path)) for path in sorted(folder.glob("*.lock")) if _taken(path)]
    waiting = []
    for path in sorted((folder / "queue").glob("*.lock")):
        who, wish = (holder_in(path), read_json(path.with_suffix(".json"))) if _taken(path) else (None, {})
        if who is not None and "count" in wish:  # else it has just been served
            waiting.append(WaitingStage(int(wish["count"]), who))
    return DeviceTable(tuple(held), tuple(waiting))


def _taken(path: Path) -> bool:
    return holders(path).holder is not None
