"""The processes of this machine that are ours: commands, their folders, where their words go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """`words`: the command without the interpreter; `above`: its ancestors' numbers."""

    pid: int
    words: tuple[str, ...]
    folder: Path
    since: float
    above: frozenset[int]

    @property
    def text(self) -> str:
        return " ".join(self.words)[:100]

    @property
    def verb(self) -> str:
        """`run` of `everest run`; empty for what is no command of `everest`."""
        return self.words[1] if self.words[0] == "everest" and len(self.words) > 1 else ""


def ours(table: Iterable[psutil.Process] | None = None) -> list[Process]:
    """Commands of ours, oldest first; what a command started is no command of its own."""
    processes: dict[int, Process] = {}
    for process in psutil.process_iter() if table is None else table:
        with contextlib.suppress(psutil.Error, OSError):
            words = _words(process.cmdline())
            if words and process.pid != os.getpid():
                above = frozenset(parent.pid for parent in process.parents())
                processes[process.pid] = Process(process.pid, words, Path(process.cwd()), process.create_time(), above)
    return sorted((one for one in processes.values() if not one.above & processes.keys()), key=lambda one: one.since)


def _words(command: list[str]) -> tuple[str, ...]:
    """A command of ours as a person types it; () for any other."""
    names = [Path(word).name if number < 2 else word for number, word in enumerate(command)]
    if names and names[0].startswith("python"):
        names = names[1:]
        while names and names[0] in ("-u", "-I", "-P", "-E"):
            names = names[1:]
    if names[:1] == ["-m"] and len(names) > 1:
        module = names[1]
        if module == "pipeline.cli":
            names = ["everest", *names[2:]]
        elif module.startswith("flows.") or module in ("dvc", "prefect"):
            names = [module, *names[2:]]
    if names[:1] == ["everest"] and len(names) > 1 and names[1] not in ("status", "ui", "doctor"):
        return tuple(names)
    ours = names[:1] and (names[0].startswith("flows.") or (names[0] == "dvc" and "repro" in names))
    worker = names[:1] == ["prefect"] and names[1:2] == ["worker"]
    return tuple(names) if ours or worker else ()


def log_of(pid: int) -> str | None:
    """The file that a process writes its words to; None where that is a terminal, a pipe, or another user's."""
    try:
        target = str(Path(f"/proc/{pid}/fd/2").readlink())
    except OSError:
        return None
    return target if target.startswith("/") and Path(target).is_file() else None


def memory_gib(pids: Collection[int]) -> float | None:
    """[GiB] resident of these processes together; None where none of them is here."""
    resident = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            resident.append(psutil.Process(pid).memory_info().rss)
    return sum(resident) / 2**30 if resident else None
