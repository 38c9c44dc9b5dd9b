"""DVC's own locks: who holds them, since when, and what to do where nobody does any more.

`.dvc/tmp/lock` is locked by the kernel (it goes with its process); `.dvc/tmp/rwlock` lists which process writes or
reads which output, by a number that may belong to another program after a crash.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import EverestError
from pipeline.system.processes import describe, is_program

#: [s] between two looks, and between two words about it.
POLL_SECONDS, SAY_SECONDS = 0.5, 60.0
#: [s] that a list has to stay as it is to be called broken: DVC empties it and writes it anew.
BROKEN_SECONDS = 1.0


def stale(root: Path = Path()) -> str | None:
    """A sentence with its cure where a crash left DVC's list of readers and writers behind; None where not."""
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        entries = _entries(path)
    except ValueError:
        return f"{path} is broken (a crash while DVC wrote it). Cure: rm {path}"
    for pid, output in entries:
        if _alive(pid) and not _is_dvc(pid):
            return (
                f"{path} says that {output} is in use by process {pid}, which is another program by now "
                f"({describe(pid)}): DVC crashed. Cure: rm {path}"
            )
    return None


def holder(root: Path = Path()) -> str | None:
    """Who keeps DVC busy: what it holds, its number, command and start; None where DVC is free."""
    tmp = root / ".dvc" / "tmp"
    try:
        with (tmp / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                number = file.read().strip()
                who = describe(int(number)) if number.isdigit() else "another process"
                return f"{who} holds {tmp / 'lock'}"
    except FileNotFoundError:
        pass
    try:
        for pid, output in _entries(tmp / "rwlock"):
            if _is_dvc(pid):
                return f"{describe(pid)} works on {output}"
    except ValueError:
        return None
    return None


def wait_until_free(say: Callable[[str], None], root: Path = Path()) -> None:
    """Wait for DVC's locks, saying who holds them.

    Raises:
        EverestError: a lock that nobody will let go of.
    """
    last_said = -SAY_SECONDS
    while True:
        if left := stale(root):
            raise EverestError(left)
        who = holder(root)
        if who is None:
            return
        if time.monotonic() - last_said >= SAY_SECONDS:
            last_said = time.monotonic()
            say(f"DVC is busy here: {who}. Waiting for it; Ctrl-C stops, and stopping that process ends the wait.")
        time.sleep(POLL_SECONDS)


def _entries(path: Path) -> list[tuple[int, str]]:
    """(process, output) of every reader and writer on the list.

    Raises:
        ValueError: the file is no such list, and nobody is writing it.
    """
    seen, since = -1, 0.0
    while True:
        try:
            with path.open("rb") as file:
                content, written = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return []
        try:
            return list(_parsed(content))
        except ValueError:
            if written != seen:
                seen, since = written, time.monotonic()
            elif time.monotonic() - since > BROKEN_SECONDS:
                raise
        time.sleep(BROKEN_SECONDS / 20)


def _parsed(text: bytes) -> Iterator[tuple[int, str]]:
    content: object = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(text[:100])
    for mode in ("write", "read"):
        for output, infos in dict(content.get(mode, {})).items():
            for info in infos if isinstance(infos, list) else [infos]:
                if not isinstance(info, dict) or not isinstance(info.get("pid"), int):
                    raise ValueError(text[:100])
                yield info["pid"], str(output)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _is_dvc(pid: int) -> bool:
    return _alive(pid) and is_program(pid, "dvc")
