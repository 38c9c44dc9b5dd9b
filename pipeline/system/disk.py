"""Which file or folder a full disk is full under: libraries say so in many words, and most name no file."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import EverestError
from pipeline.system.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full", "not enough space")
#: [byte] a disk with less counts as full: what failed wanted more.
LITTLE = 64 << 10


class DiskFullError(EverestError, OSError):
    """A file could not be written for want of room; the message names it."""

    def __init__(self, place: Path | str) -> None:
        super().__init__(
            f"{printable(place)}: no space left on the disk. What is finished is kept. "
            "Cure: free some space there and run the same command again."
        )
        self.errno = errno.ENOSPC
        self.place = place

    def __reduce__(self) -> tuple[type[DiskFullError], tuple[Path | str]]:
        # Out of a worker process it comes with its message once.
        return type(self), (self.place,)


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that a disk is full."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _FULL or any(words in str(seen) for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def has_room(folder: Path) -> bool:
    """Whether the disk under a folder (or the nearest one above it that exists) has bytes and files to spare."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        about = os.statvfs(there)
    except OSError:
        return True
    return about.f_bavail * about.f_frsize >= LITTLE and (about.f_favail > 0 or not about.f_files)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn whatever a library says of a full disk into one error that names `place`, the file or folder written.

    Raises:
        DiskFullError: the block failed for want of room; its partial files are the block's to remove.
    """
    try:
        yield
    except EverestError:
        raise
    except Exception as error:
        # Pillow and torch only say that writing failed: the disk itself is asked.
        if not is_full(error) and has_room(place.parent):
            raise
        # What is written beside its final name is that file to a reader; another folder may be the full one.
        named = Path(getattr(error, "filename", None) or place)
        raise DiskFullError(place if named.parent in (place, place.parent) else named) from error


def full_places(words: Iterable[str]) -> list[Path]:
    """Folders without room among those that a command with these arguments writes to."""
    home = Path(os.environ.get("HOME") or "/")
    data = Path(os.environ.get("EVEREST_DATA", "data"))
    places = [Path.cwd(), Path(".work").absolute(), Path("outputs").absolute(), data.absolute()]
    places += [Path(tempfile.gettempdir()), home, Path("/dev/shm")]
    places += [Path(word).absolute() for word in words if "\0" not in word and Path(word).absolute().parent.is_dir()]
    return list(dict.fromkeys(place for place in places if not has_room(place)))
