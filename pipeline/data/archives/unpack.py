"""Unpacks archives from the network into a folder that appears only when everything is out, or refuses them.

Refused: absolute names, `..`, links, devices, set-user-id bits, encrypted or repeated entries, and more
entries, bytes or growth than the caps allow. An exit code proves nothing: callers count what came out.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from pipeline.data.archives.rules import (
    TRUST,
    Caps,
    HostileArchive,
    Meter,
    checked_path,
    kind_of,
)
from pipeline.errors import InputError
from pipeline.system.files import atomic_folder, require_space


def unpack(archive: Path | Sequence[Path], target: Path, caps: Caps | None = None) -> int:
    """Unpack a zip, tar (any compression) or rar, or the parts of a cut tar, into the new folder `target`.

    Rar archives within a rar are unpacked too, each into the folder that holds it. One process at a time may
    unpack to a target; the lock on the raw folder sees to that.

    Returns:
        Number of files that came out.

    Raises:
        HostileArchive: by the rules above; nothing is left behind.
        InputError: not an archive, truncated, or no tool can read it.
    """
    parts = [archive] if isinstance(archive, Path) else list(archive)
    caps = caps or Caps()
    total = sum(part.stat().st_size for part in parts)
    require_space(target.parent, total, f"unpacking {parts[0].name}")
    with atomic_folder(target, many=True) as building:
        _unpack_into(parts, building, Meter(caps, total, parts[0].name))
        count = sum(len(names) for _, _, names in os.walk(building))
        if not count:
            raise InputError(f"{parts[0].name} holds no file. Cure: fetch it again.")
    return count


def _unpack_into(parts: list[Path], folder: Path, meter: Meter) -> None:
    kind = kind_of(parts[0])
    if kind == "zip" and len(parts) == 1:
        _unzip(parts[0], folder, meter)
    elif kind == "rar" and len(parts) == 1:
        from pipeline.data.archives.rar import unrar

        unrar(parts[0], folder, meter)
    else:
        _untar(parts, folder, meter)


def _unzip(path: Path, folder: Path, meter: Meter) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if info.flag_bits & 1:
                    raise HostileArchive(f"{path.name}: {info.filename!r} is encrypted. Cure: {TRUST}")
                # Only the type bits that Unix zips carry say something; none means a plain file.
                plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
                target = checked_path(folder, info.filename, path.name, plain=plain, mode=mode)
                meter.entry()
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                with archive.open(info) as content:
                    _write(content, target, meter)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path.name} is not a whole zip archive: {error}. Cure: fetch it again.") from None


def _untar(parts: list[Path], folder: Path, meter: Meter) -> None:
    try:
        with (
            _Joined(parts) as joined,
            tarfile.open(fileobj=io.BufferedReader(joined, 1 << 20), mode="r|*", tarinfo=_Entry) as archive,
        ):
            for member in archive:
                tarfile.data_filter(member, os.fspath(folder))
                plain = member.isreg() or member.isdir()
                target = checked_path(folder, member.name, parts[0].name, plain=plain, mode=member.mode)
                meter.entry()
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                content = archive.extractfile(member)
                if content is None:
                    raise HostileArchive(f"{parts[0].name}: {member.name!r} has no content. Cure: {TRUST}")
                if _write(content, target, meter) != member.size:
                    raise InputError(f"{parts[0].name} is cut off within {member.name!r}. Cure: fetch it again.")
            _read_to_end(joined)
    except tarfile.FilterError as error:
        raise HostileArchive(f"{parts[0].name}: {error}. Cure: {TRUST}") from None
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{parts[0].name}{' and its other parts are' if len(parts) > 1 else ' is'} not a whole tar archive: "
            f"{error}. Cure: fetch it again; cut archives need all their parts."
        ) from None


def _read_to_end(joined: _Joined) -> None:
    """Read what follows the last entry, so that bytes after it cannot hide a cut."""
    while joined.read(1 << 20):
        pass


def _write(content: IO[bytes], target: Path, meter: Meter) -> int:
    """Our own bytes copied into a new file with our own mode; returns how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    try:
        with target.open("xb") as file:
            while block := content.read(1 << 20):
                meter.grow(len(block))
                file.write(block)
                written += len(block)
    except FileExistsError:
        raise HostileArchive(f"{meter.name}: {target.name!r} occurs twice. Cure: {TRUST}") from None
    return written


class _Entry(tarfile.TarInfo):
    """An entry, where tarfile takes a file that ends within or before a header, or a damaged header, for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # zeros: the end as it should be
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, where an entry or the archive's end should be") from None


class _Joined(io.RawIOBase):
    """Files read one after another as one: the parts of a cut archive."""

    def __init__(self, parts: list[Path]) -> None:
        self._files: Iterator[Path] = iter(parts)
        self._open: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while True:
            if self._open is None:
                following = next(self._files, None)
                if following is None:
                    return 0
                self._open = following.open("rb")
            count = self._open.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                return int(count)
            self._open.close()
            self._open = None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()
