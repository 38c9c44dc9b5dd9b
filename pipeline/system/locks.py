"""One holder at a time, by the kernel: a lock goes with its process, however that ends.

locked    for a moment, or for one process's work: threads exclude each other too, forked children do not hold it
held      for a training: children that inherit its descriptor hold it too, so that ranks which outlive their
          launcher keep a second start out; never waits, and says who holds it
Turn      for the one training of a machine: says who has it and for what; waited for by looking again, so that a wait
          can be told of and ended
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import BusyError, EverestError
from pipeline.system.files import open_plain
from pipeline.system.processes import describe

#: (process, path) -> the lock among its threads.
_WITHIN: dict[tuple[int, str], threading.Lock] = {}
#: [s] before a wait is begun again that the kernel broke off.
_PAUSE_SECONDS = 0.01


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if absent) against other processes and threads.

    Args:
        what: the beginning of the message where another holds it.
        wait: until the others are done, instead of an error.

    Raises:
        BusyError: another one holds it and `wait` is False.
        OSError: the file cannot be opened, or is a link or no file.
    """
    busy = BusyError(f"{what} is in use by another process (lock file {path}). Cure: wait until it ends.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Record locks, not flock: children that were forked meanwhile must not hold it after our death. They do
    # not tell threads of one process apart, which the lock beside them does.
    within = _WITHIN.setdefault((os.getpid(), os.fspath(path.absolute())), threading.Lock())
    if not within.acquire(blocking=wait):
        raise busy
    try:
        with os.fdopen(open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
            if not _lock_record(file.fileno(), wait):
                raise busy
            yield
    finally:
        within.release()


def _lock_record(descriptor: int, wait: bool) -> bool:
    """Whether the lock is ours now."""
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            # The kernel sees processes, not threads: what it takes for a deadlock another thread may resolve.
            if error.errno != errno.EDEADLK:
                raise
            time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[int]:
    """Hold the lock file `path` (made if absent), with this process's number in it; yields its descriptor.

    Args:
        what: the beginning of the message where another holds it, such as "pretrain runs already".

    Raises:
        BusyError: another process holds it; the message names that process.
        EverestError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise EverestError(
            f"{path} cannot be written: {error.strerror}. Cure: make {path.parent} writable for this user, or work in "
            "a folder that is."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip()
            who = describe(int(holder)) if holder.isdigit() else "by a process that does not say who it is"
            raise BusyError(f"{what}: {who}. Cure: wait for it, or stop it with Ctrl-C where it runs.") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle.fileno()


@dataclass(frozen=True)
class Holders:
    """The process that holds a lock file (None: nobody does) and those that the kernel keeps waiting for it."""

    holder: int | None = None
    waiting: tuple[int, ...] = ()


def holders(path: Path) -> Holders:
    """Who holds a lock file and who waits for it, read from the kernel's list: nothing is locked to find out.

    After a launcher's death its ranks still hold what they inherited; the holder is then a process that is gone.
    """
    try:
        status, text = path.stat(), Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return Holders()
    # `1: FLOCK  ADVISORY  WRITE 708 fe:00:2343743 0 EOF`, with `->` behind the number for one that waits.
    rows = [[*line.replace(" -> ", " ").split(), str(" -> " in line)] for line in text.splitlines()]
    mine = [row for row in rows if len(row) >= 9 and row[5].rpartition(":")[2] == str(status.st_ino)]
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    # On some file systems (overlays) a file's device is another one than the kernel's list says.
    mine = [row for row in mine if row[5].startswith(f"{device}:")] or mine
    return Holders(
        next((int(row[4]) for row in mine if row[-1] == "False"), None),
        tuple(int(row[4]) for row in mine if row[-1] == "True"),
    )


@dataclass(frozen=True)
class Holder:
    """Who has a turn.

    Attributes:
        pid: its process.
        run: the flow run's id.
        name: the flow run's name, for people.
        stage: what it does with the turn, such as `pretrain` or `finetune@motion`.
        folder: where it runs that stage.
        since: seconds since 1970.
    """

    pid: int
    run: str
    name: str
    stage: str
    folder: str
    since: float

    def __str__(self) -> str:
        day = "%H:%M" if time.time() - self.since < 12 * 3600 else "%Y-%m-%d %H:%M"
        when = time.strftime(day, time.localtime(self.since))
        return f"run {self.name} ({self.stage}, process {self.pid}, since {when}, {self.run})"


class Turn:
    """One lock file, as this thread sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Who had it before and ended without giving it back: killed, its children perhaps still saving.
        self.left: Holder | None = None
        self._file: IO[str] | None = None

    def take(self, who: Holder) -> bool:
        """Whether the turn is ours now; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_own(self.path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.seek(0)
        self.left = _read(file.read())
        file.truncate(0)
        file.write(json.dumps(asdict(who)))
        file.flush()
        self._file = file
        return True

    @property
    def descriptor(self) -> int:
        """Of the lock that is held, for children that hold it too when they inherit it."""
        if self._file is None:
            raise ValueError(f"the turn at {self.path} was not taken")
        return self._file.fileno()

    def give_back(self) -> None:
        """Let the next one have it."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _open_own(path: Path) -> IO[str]:
    """The lock file for reading and writing; what lies there under another user's hand must be a plain file.

    Raises:
        EverestError: a link, by which another user could have this one's files overwritten, or anything else.
    """
    try:
        descriptor = open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL):
            raise
        message = f"lock file {path} is a link or no file. Cure: remove it, and ask who put it there."
        raise EverestError(message) from None
    return os.fdopen(descriptor, "a+", encoding="utf-8")


def is_free(path: Path) -> bool:
    """Whether nobody has the turn at `path`."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def turn_holder(path: Path) -> Holder | None:
    """Who has the turn at `path`; None where nobody has, or the holder has not said so yet."""
    return None if is_free(path) else holder_in(path)


def holder_in(path: Path) -> Holder | None:
    """Who a turn's file says has it, whether or not that one still does."""
    try:
        return _read(path.read_text(encoding="utf-8"))
    except OSError:
        return None


def _read(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):  # it writes at this moment, or is of another version
        return None
