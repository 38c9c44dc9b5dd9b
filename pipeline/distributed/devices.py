"""The GPUs of this machine as something that stages take and give back: a lock file for each, whoever uses it.

    $EVEREST_DEVICE_LOCKS or /tmp/everest-devices
    <GPU>.lock           held by a stage and its ranks; says which
    queue/<time>.lock    held by a stage that waits, with its wish beside it in queue/<time>.json

Who waits longest is served first; one behind it passes only with GPUs that nobody before it asks for. The kernel lets
go of the locks however a process ends. CUDA_VISIBLE_DEVICES is set from what was taken. EVEREST_DEVICES=0,1 names a
share of the machine's GPUs, by their numbers or UUIDs, or, without GPUs, ranks on the CPU that count as devices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.efficiency.gpus import holding, installed, visible
from pipeline.errors import EverestError, InputError
from pipeline.layout import RUN_VARIABLE
from pipeline.system.files import read_json, write_json
from pipeline.system.locks import Holder, Turn, is_free, locked, turn_holder

log = logging.getLogger(__name__)

VARIABLE = "EVEREST_DEVICES"
#: [s] between two looks, and between two words about what is waited for.
POLL_SECONDS, SAY_SECONDS = 1.0, 60.0


@dataclass(frozen=True)
class Taken:
    """Devices by the names that CUDA_VISIBLE_DEVICES takes, and the locks' descriptors, which ranks inherit."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()


def listed() -> list[str]:
    """The devices that a process started now may use, by names that mean the same to every process; [] without GPUs.

    Raises:
        InputError: EVEREST_DEVICES names what this machine has not.
    """
    if (setting := os.environ.get(VARIABLE)) is None:
        return visible()
    gpus = installed()
    names = [_gpu(name.strip(), gpus) for name in setting.split(",") if name.strip()]
    return list(dict.fromkeys(names))


def _gpu(name: str, gpus: list[str]) -> str:
    """A GPU's UUID, as its lock is named for all; where this process is shown no GPU, any name stands for a device."""
    if name.isdigit() and int(name) < len(gpus):
        return gpus[int(name)]
    found = [uuid for uuid in gpus if uuid.startswith(name)]  # CUDA takes their beginnings, too
    if len(found) == 1:
        return found[0]
    if name.startswith("MIG-") or not set(visible()) & set(gpus):  # the driver lists no slices (MIG)
        return name
    raise InputError(
        f"{VARIABLE} names {name!r}: expected numbers from 0 to {len(gpus) - 1}, or UUIDs, of this machine's GPUs. "
        "Cure: see `nvidia-smi -L`."
    )


def holders() -> dict[str, Holder]:
    """Who has which device."""
    holder_of = {name: turn_holder(_lock(name)) for name in listed()}
    return {name: who for name, who in holder_of.items() if who is not None}


@contextlib.contextmanager
def taken(wanted: int | Sequence[int], stage: str) -> Iterator[Taken]:
    """Wait for devices, hold them, and show them alone to this process and its children.

    Args:
        wanted: how many, or which of :func:`listed` by number.
        stage: what they are for, such as `finetune@motion`.

    Raises:
        InputError: this machine has not so many, or not those.
    """
    names = listed()
    if not names:
        yield Taken()
        return
    allowed, count = _wish(wanted, names)
    with contextlib.ExitStack() as stack:
        turns = _wait(allowed, count, _who(stage), stack)
        got = tuple(name for name in allowed if name in turns)
        descriptors = tuple(turns[name].descriptor for name in got)
        stack.enter_context(_shown(got))
        stack.enter_context(holding(got))
        yield Taken(got, descriptors)


def _wish(wanted: int | Sequence[int], names: list[str]) -> tuple[list[str], int]:
    if isinstance(wanted, int):
        if wanted > len(names):
            raise InputError(
                f"compute.gpus = {wanted}, and {len(names)} GPU(s) are visible here. Cure: set compute.gpus (or "
                f"compute.ranks) to {len(names)} or fewer."
            )
        return names, wanted
    absent = [number for number in wanted if number >= len(names)]
    if absent:
        raise InputError(
            f"compute.gpus names {absent}, and this machine's {len(names)} GPU(s) are numbered from 0. Cure: others."
        )
    return [names[number] for number in wanted], len(wanted)


def _wait(allowed: list[str], count: int, who: Holder, stack: contextlib.ExitStack) -> dict[str, Turn]:
    folder = _folder()
    wish = folder / "queue" / f"{time.time_ns():020d}-{os.getpid()}.json"
    ticket = Turn(wish.with_suffix(".lock"))
    said = -SAY_SECONDS
    try:
        # The lock before the wish: one without the other is a dead process's, wherever it was killed.
        _shared(ticket.path)
        ticket.take(who)
        write_json(wish, {"count": count, "allowed": allowed})
        _give_mode(os.open(wish, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), 0o644)  # others make way by it
        while True:
            with locked(_shared(folder / "mutex"), "the list of GPUs", wait=True):
                before = _reserved(wish, allowed)
                turns = _take(allowed, count, before, who)
            if turns:
                for turn in turns.values():
                    stack.callback(turn.give_back)
                log.warning("ranks: %s has %s", who.stage, ", ".join(turns))
                return turns
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                log.warning("ranks: %s waits for %s", who.stage, _waited_for(allowed, count, before))
            time.sleep(POLL_SECONDS)
    finally:
        ticket.give_back()
        for path in (wish, wish.with_suffix(".lock")):
            path.unlink(missing_ok=True)


def _take(allowed: list[str], count: int, reserved: set[str], who: Holder) -> dict[str, Turn]:
    """All that are wanted, or none."""
    turns: dict[str, Turn] = {}
    for name in allowed:
        turn = Turn(_shared(_lock(name)))
        if name not in reserved and len(turns) < count and turn.take(who):
            turns[name] = turn
    if len(turns) == count:
        return turns
    for turn in turns.values():
        turn.give_back()
    return {}


def _reserved(mine: Path, allowed: list[str]) -> set[str]:
    """Free devices that those who have waited longer will take; the wishes of dead processes are removed."""
    free = [name for name in listed() if is_free(_lock(name))]
    kept: set[str] = set()
    for path in sorted(mine.parent.glob("[0-9]*.json")):  # not what a killed process was still writing
        if path.name >= mine.name:
            break
        lock = path.with_suffix(".lock")
        if is_free(lock):  # or absent
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            continue
        # It has just been served, or another user wrote something else into it.
        with contextlib.suppress(EverestError, OSError, KeyError, TypeError, ValueError):
            wish = read_json(path)
            kept |= set([name for name in free if name in wish["allowed"] and name not in kept][: int(wish["count"])])
    return kept & set(allowed)


def _waited_for(allowed: list[str], count: int, reserved: set[str]) -> str:
    who = list(dict.fromkeys(str(holder) for name, holder in holders().items() if name in allowed))
    text = f"{count} of {len(allowed)} GPU(s)" if count < len(allowed) else f"{count} GPU(s)"
    text += f": held by {'; '.join(who)}" if who else ""
    return f"{text}; {len(reserved)} more are promised to those who have waited longer" if reserved else text


def _who(stage: str) -> Holder:
    run = os.environ.get(RUN_VARIABLE, "")
    return Holder(os.getpid(), run or "no flow", run or "everest", stage, str(Path.cwd()), time.time())


@contextlib.contextmanager
def _shown(names: tuple[str, ...]) -> Iterator[None]:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _lock(name: str) -> Path:
    return _folder() / f"{lock_name(name)}.lock"


def lock_folder() -> Path:
    """Where the lock files are: one folder for all users of the machine."""
    return Path(os.environ.get("EVEREST_DEVICE_LOCKS", "/tmp/everest-devices"))


def lock_name(device: str) -> str:
    """A device's name as its lock file has it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", device)


def _folder() -> Path:
    folder = lock_folder()
    for path in (folder, folder / "queue"):
        if path.is_symlink():
            raise EverestError(f"{path} is a link. Cure: remove it, and ask who put it there (EVEREST_DEVICE_LOCKS).")
        if not path.exists():
            path.mkdir(parents=True, exist_ok=True)
            # Colleagues take and give back the same files.
            _give_mode(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), 0o777)
    return folder


def _shared(path: Path) -> Path:
    """A lock file that every user of the machine may lock."""
    with contextlib.suppress(FileExistsError):
        _give_mode(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), 0o666)
    return path


def _give_mode(descriptor: int, mode: int) -> None:
    """Give an open file of this user a mode whatever the umask, and close it.

    Not by its name: in a folder that all may write to, that may be another user's link to a private file by now.
    """
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
