"""Files that appear whole or not at all, content hashes, and locks between processes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import xxhash

from pipeline.errors import BusyError, EverestError
from pipeline.system.disk import writing
from pipeline.system.text import shortened

#: Flag of Linux's sync_file_range(2), from <fcntl.h>.
_SYNC_FILE_RANGE_WRITE = 2

#: (process, path) -> the lock among its threads.
_WITHIN: dict[tuple[int, str], threading.Lock] = {}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to it when the block ends well, removed otherwise.

    The temporary name is hidden and keeps the suffix, so that writers that choose a format by suffix work.
    Contents and folder are flushed to disk before this returns.

    Raises:
        DiskFullError: naming `path`.
    """
    temporary = path.with_name(f".{shortened(path.name, 120)}.{secrets.token_hex(4)}.part{path.suffix[:16]}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync_folder(folder: Path) -> None:
    """Make renames within a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hexadecimal: finds damage as surely as SHA-256, but not a forger's."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made if absent) against other processes and threads.

    The system drops it if this process dies.

    Raises:
        BusyError: another one holds it and `wait` is False.
    """
    busy = BusyError(f"{what} is in use by another process (lock file {path}). Cure: wait until it ends.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Record locks, not flock: children that were forked meanwhile must not hold it after our death. They do
    # not tell threads of one process apart, which the lock beside them does.
    within = _WITHIN.setdefault((os.getpid(), os.fspath(path.absolute())), threading.Lock())
    if not within.acquire(blocking=wait):
        raise busy
    try:
        with path.open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except (BlockingIOError, PermissionError):
                raise busy from None
            yield
    finally:
        within.release()


def link(source: Path | str, target: Path | str) -> None:
    """Give a file another name: a hard link where possible, else a copy; an older file of that name is replaced."""
    real = os.path.realpath(source)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(real, target)
    except OSError:
        shutil.copy2(real, target)


def free_bytes(folder: Path) -> int:
    """Free space where `folder` lies, or will lie."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    return shutil.disk_usage(probe).free


def size_text(count: float) -> str:
    """A number of bytes for people: in the largest unit of which there is at least one."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count:.0f} bytes"


def require_space(folder: Path, needed: int, what: str, reserve: int = 64 << 20) -> None:
    """Refuse to start what cannot end.

    Raises:
        EverestError: fewer than `needed` + `reserve` bytes are free where `folder` lies.
    """
    free = free_bytes(folder)
    if free < needed + reserve:
        raise EverestError(
            f"{what} needs {size_text(needed)} in {folder} and {reserve >> 20} MiB to spare, "
            f"{size_text(free)} are free. "
            "Cure: free some space, or set EVEREST_DATA to a folder on a larger disk."
        )


def begin_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the kernel to start writing these bytes of a file to the disk, without waiting for it.

    A hint: what is written while more is being made, the `fsync` at the end need not wait for. Nothing happens where
    libc lacks the call, and an error comes up again in that `fsync`.
    """
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)
