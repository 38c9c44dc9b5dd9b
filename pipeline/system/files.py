"""Files and folders that appear whole or not at all, and stay: the only module that renames and flushes.

What is written lies beside its final name until it is complete; then its bytes are flushed to the disk, one rename puts
it in its place, and the folder that holds the name is flushed too. A crash at any moment leaves the old or the new one;
of a folder on a disk that cannot exchange two names (NFS), between two renames, only what :func:`leftovers` names.

    a file      atomic_path, write_text, write_json; publish_file for one that was written elsewhere on the same disk
    a folder    atomic_folder; publish_folder for one that is finished already, on another disk too
    a journal   flush after what was appended
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash

from pipeline.errors import EverestError, InputError
from pipeline.system.disk import writing
from pipeline.system.text import shortened

#: Flag of Linux's sync_file_range(2), from <fcntl.h>.
_SYNC_FILE_RANGE_WRITE = 2
#: Of renameat2(2), from <fcntl.h>: paths are from the current folder; both names stay, and change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class _Open(Protocol):
    """An open file."""

    def flush(self) -> object: ...
    def fileno(self) -> int: ...


def flush(file: _Open) -> None:
    """Bring what was written to an open file to the disk itself."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that renames in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_file_system(folder: Path) -> None:
    """Bring everything written to the file system of `folder` to the disk: one wait for any number of files.

    Raises:
        OSError: what was written could not be stored (Linux tells since 5.8).
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if call(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def publish_file(finished: Path, path: Path) -> None:
    """Give a finished file its name, in the place of an older one; contents and name are on the disk then."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    finished.replace(path)
    flush_folder(path.parent)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to it when the block ends well, removed otherwise.

    The temporary name is hidden and keeps the suffix, so that writers that choose a format by suffix work.

    Raises:
        DiskFullError: naming `path`.
    """
    temporary = path.with_name(f".{shortened(path.name, 120)}.{secrets.token_hex(4)}.part{path.suffix[:16]}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a plain file: in a folder of others, a link or a pipe may have been put in its place.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return descriptor


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a record as JSON, atomically."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A record that :func:`write_json` wrote; {} where there is none, or no JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@contextlib.contextmanager
def atomic_folder(path: Path, many: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which takes its place when the block ends well and is removed otherwise.

    One process at a time: what a killed one left here (:func:`leftovers`) is removed first.

    Args:
        many: as for :func:`publish_folder`.
    """
    building, _ = leftovers(path)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        publish_folder(building, path, many)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def publish_folder(finished: Path, path: Path, many: bool = False) -> None:
    """Put a finished folder in its place, its files on the disk; the one that was there stays until then.

    Args:
        many: flush the file system at once: for thousands of files quicker than one after the other.
    """
    _flush_tree(finished, many)
    path.parent.mkdir(parents=True, exist_ok=True)
    building, old = leftovers(path)
    if finished != building:  # first beside its place: what gives way must never stand under the name it came from
        shutil.rmtree(building, ignore_errors=True)
        try:
            finished.rename(building)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copytree(finished, building)
            _flush_tree(building, many)
    if not (path.exists() and _exchange(building, path)):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        building.rename(path)
    flush_folder(path.parent)
    for left in (building, old, finished):
        shutil.rmtree(left, ignore_errors=True)


def _flush_tree(folder: Path, many: bool) -> None:
    if many:
        flush_file_system(folder)
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        flush_folder(Path(parent))


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def remove_folder(path: Path) -> None:
    """Remove a folder in such a way that its name never stands for half of it."""
    _, old = leftovers(path)
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def leftovers(path: Path) -> tuple[Path, Path]:
    """Where a folder is put together, and where the one before it goes: a killed process may leave both.

    They lie beside it, since a folder can only be renamed within its file system.
    """
    name = shortened(path.name, 240)
    return path.with_name(f".{name}.tmp"), path.with_name(f".{name}.old")


def symlink(link: Path, target: Path) -> None:
    """Make a symbolic link lead to `target`, from one moment to the next where it led elsewhere."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)


def make_folder(folder: Path) -> None:
    """A folder to write results to.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{folder}: it is a file, or lies below one. Cure: name a folder that can be written to."
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}. Cure: name a folder that can be written to.") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to. Cure: name another folder.")


def check_file(path: Path) -> None:
    """Refuse before the work a file that could not be written after it.

    Raises:
        InputError: a folder has its name, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a file is to be written. Cure: name a file, in it or elsewhere.")
    make_folder(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hexadecimal: finds damage as surely as SHA-256, but not a forger's."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


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
