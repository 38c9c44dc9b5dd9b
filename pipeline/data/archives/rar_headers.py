"""What a rar archive says it holds, read from its headers, which are never compressed.

Known before any tool runs, and the measure of what a tool left: bsdtar checks no checksum and may end well with
files missing. Both formats: RAR 1.5 to 4 and RAR 5 (unrar's technote.txt, rarlab.com/technote.htm).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from pipeline.errors import InputError

MAGIC_4, MAGIC_5 = b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"
UNIX_4, UNIX_5 = 3, 1
#: Windows file attributes.
_FOLDER, _REPARSE_POINT = 0x10, 0x400
_AGAIN = "Cure: fetch it again."


@dataclass(frozen=True)
class RarEntry:
    """One entry. `bytes` and `crc32` are of the unpacked file, None where the archive does not tell."""

    name: str
    bytes: int | None
    crc32: int | None
    folder: bool = False
    plain: bool = True
    mode: int = 0


def entries(path: Path) -> list[RarEntry]:
    """The archive's entries in their order.

    Raises:
        InputError: cut off, damaged, encrypted, one of several volumes, or no rar archive.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(len(MAGIC_5))
        if head == MAGIC_5:
            return list(_entries_5(file, size, path.name))
        if head.startswith(MAGIC_4):
            file.seek(len(MAGIC_4))
            return list(_entries_4(file, size, path.name))
    raise InputError(f"{path.name} is no rar archive of a known format. {_AGAIN}")


def _entries_4(file: IO[bytes], size: int, name: str) -> Iterator[RarEntry]:
    position = file.tell()
    while position < size:
        file.seek(position)
        head = file.read(7)
        kind, flags, length = struct.unpack("<BHH", head[2:]) if len(head) == 7 else (0, 0, 0)
        body = file.read(max(0, length - 7))
        try:
            more = struct.unpack_from("<I", body)[0] if flags & 0x8000 else 0
            if kind in (0x74, 0x7A) and flags & 0x100:  # a file or service block above 4 GiB
                more += struct.unpack_from("<I", body, 25)[0] << 32
            if kind == 0x73:
                _refuse(name, encrypted=flags & 0x80, volume=flags & 0x01)
            if kind == 0x74:
                _refuse(name, encrypted=flags & 0x04, volume=flags & 0x03)
                yield _file_4(body, flags)
        except struct.error:
            raise _damaged(name) from None
        position += length + more
        if length < 7 or not 0x72 <= kind <= 0x7B or position > size:
            raise _damaged(name)
        if kind == 0x7B:  # the end block, which the oldest archives lack
            return


def _file_4(body: bytes, flags: int) -> RarEntry:
    _, size, system, crc, _, _, _, length, mode = struct.unpack_from("<IIBIIBBHI", body)
    start = 25
    if flags & 0x100:
        size += struct.unpack_from("<I", body, start + 4)[0] << 32
        start += 8
    # A second, encoded form of the name may follow a zero; folders are parted by backslashes on every system.
    name = body[start : start + length].split(b"\0")[0].decode("utf-8", "replace").replace("\\", "/")
    return _entry(name, size, crc, unix=system == UNIX_4, mode=mode, folder=flags & 0xE0 == 0xE0)


def _entries_5(file: IO[bytes], size: int, name: str) -> Iterator[RarEntry]:
    position = file.tell()
    while position < size:
        file.seek(position + 4)  # the header's checksum: a damaged header shows in what the files are
        try:
            fields = _Fields(file.read(5))
            length = fields.number()
            begin = position + 4 + fields.position
            file.seek(begin)
            fields = _Fields(file.read(length))
            kind, flags = fields.number(), fields.number()
            extra = fields.number() if flags & 1 else 0
            more = fields.number() if flags & 2 else 0
            if kind == 1:
                _refuse(name, encrypted=0, volume=fields.number() & 1)
            if kind == 4:
                _refuse(name, encrypted=1, volume=0)
            if kind == 2:
                records = dict(_records_5(_Fields(fields.content[length - extra :] if extra else b"")))
                _refuse(name, encrypted=1 in records, volume=flags & 0x18)
                yield _file_5(fields, linked=5 in records)
        except (IndexError, struct.error, UnicodeDecodeError):
            raise _damaged(name) from None
        position = begin + length + more
        if len(fields.content) < length or not 1 <= kind <= 255 or position > size:
            raise _damaged(name)
        if kind == 5:
            return
    raise _damaged(name)


def _file_5(fields: _Fields, linked: bool) -> RarEntry:
    flags = fields.number()
    size: int | None = fields.number()
    mode = fields.number()
    if flags & 2:
        fields.skip(4)
    crc = fields.word() if flags & 4 else None
    fields.number()  # method
    unix = fields.number() == UNIX_5
    name = fields.take(fields.number()).decode()
    entry = _entry(name, None if flags & 8 else size, crc, unix=unix, mode=mode, folder=bool(flags & 1))
    return replace(entry, plain=entry.plain and not linked)


def _records_5(fields: _Fields) -> Iterator[tuple[int, bytes]]:
    """Extra records of a file as (type, content): 1 is encryption, 5 a link of any kind."""
    while fields.position < len(fields.content):
        record = _Fields(fields.take(fields.number()))
        yield record.number(), record.content


def _entry(name: str, size: int | None, crc: int | None, *, unix: bool, mode: int, folder: bool) -> RarEntry:
    if not unix:
        return RarEntry(name, size, crc, folder or bool(mode & _FOLDER), not mode & _REPARSE_POINT)
    plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
    return RarEntry(name, size, crc, folder or stat.S_ISDIR(mode), plain, mode)


class _Fields:
    """Reads the fields of a RAR 5 header. Raises IndexError or struct.error at its end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def number(self) -> int:
        """7 bits a byte, the lowest first; the top bit says that another follows."""
        value = shift = 0
        while True:
            byte = self.content[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def word(self) -> int:
        value: int = struct.unpack_from("<I", self.content, self.position)[0]
        self.position += 4
        return value

    def skip(self, count: int) -> None:
        self.position += count

    def take(self, count: int) -> bytes:
        content = self.content[self.position : self.position + count]
        if len(content) < count:
            raise IndexError
        self.position += count
        return content


def _refuse(name: str, *, encrypted: int | bool, volume: int | bool) -> None:
    if encrypted:
        raise InputError(f"{name} is encrypted, which no publisher's archive is. {_AGAIN}")
    if volume:
        raise InputError(
            f"{name} is one volume of several. Cure: fetch an archive in one piece, or unpack them by hand."
        )


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is cut off or damaged. {_AGAIN}")
