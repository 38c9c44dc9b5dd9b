"""One holder at a time, by the kernel: a lock goes with the process, however that ends.

Children that inherit the descriptor hold it too, so that ranks which outlive their launcher keep a second start out.
(Where a forked child must *not* keep it, see pipeline.system.files.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BusyError, EverestError
from pipeline.system.processes import describe


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
