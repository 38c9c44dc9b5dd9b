"""Writes real rar archives, of the older (RAR 2.9 to 4) and the newer format (RAR 5), with stored files.

Debian's main archive holds no program that packs rar, but its headers are published and a stored file needs no
compression. Fields and numbers: unrar's technote.txt and rarlab.com/technote.htm.
"""

from __future__ import annotations

import stat
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOLID_4, SOLID_5 = 0x0008, 0x0004


@dataclass(frozen=True)
class Entry:
    """A file, or with `mode` of another type a folder or link (whose target is `content`)."""

    name: str
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    #: Written instead of the right checksum.
    wrong_crc: bool = False

    @property
    def crc(self) -> int:
        return zlib.crc32(self.content) ^ int(self.wrong_crc)


def entries_of(files: dict[str, bytes]) -> list[Entry]:
    return [Entry(name, content) for name, content in files.items()]


def rar4(entries: Sequence[Entry], solid: bool = False) -> bytes:
    """An archive of the older format."""

    def block(kind: int, flags: int, body: bytes, data: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + data

    parts = [b"Rar!\x1a\x07\x00", block(0x73, SOLID_4 if solid else 0, bytes(6))]
    for number, entry in enumerate(entries):
        name = entry.name.replace("/", "\\").encode()  # as its packers write on every system
        size = len(entry.content)
        flags = 0x8000 | (0xE0 if stat.S_ISDIR(entry.mode) else 0) | (0x10 if solid and number else 0)
        body = struct.pack("<IIBIIBBHI", size, size, 3, entry.crc, 0x4E210000, 29, 0x30, len(name), entry.mode)
        parts.append(block(0x74, flags, body + name, entry.content))
    return b"".join([*parts, block(0x7B, 0x4000, b"")])


def rar5(entries: Sequence[Entry], solid: bool = False) -> bytes:
    """An archive of the newer format."""

    def number(value: int) -> bytes:
        sink = bytearray()
        while value > 0x7F:
            sink.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*sink, value])

    def block(kind: int, body: bytes, extra: bytes = b"", data: bytes = b"") -> bytes:
        flags = (1 if extra else 0) | (2 if data else 0)
        sizes = (number(len(extra)) if extra else b"") + (number(len(data)) if data else b"")
        head = number(kind) + number(flags) + sizes + body + extra
        head = number(len(head)) + head
        return struct.pack("<I", zlib.crc32(head)) + head + data

    parts = [b"Rar!\x1a\x07\x01\x00", block(1, number(SOLID_5 if solid else 0))]
    for index, entry in enumerate(entries):
        name, extra, data = entry.name.encode(), b"", entry.content
        if stat.S_ISLNK(entry.mode):
            record = number(5) + number(1) + number(0) + number(len(data)) + data
            extra, data = number(len(record)) + record, b""
        flags = 1 if stat.S_ISDIR(entry.mode) else 4
        crc = b"" if stat.S_ISDIR(entry.mode) else struct.pack("<I", entry.crc)
        method = 0x40 if solid and index else 0
        body = number(flags) + number(len(data)) + number(entry.mode) + crc + number(method) + number(1)
        parts.append(block(2, body + number(len(name)) + name, extra, data))
    return b"".join([*parts, block(5, number(0))])


def read_stored(content: bytes) -> dict[str, bytes]:
    """The plain files that :func:`rar5` packed."""
    position = len(b"Rar!....")

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    files = {}
    while position < len(content):
        position += 4  # checksum
        length = number()
        end = position + length
        kind, flags = number(), number()
        size = number() if flags & 2 else 0
        if kind == 2:
            number(), number(), number()  # flags, size, mode
            position += 4  # checksum
            number(), number()  # method, system
            length = number()
            files[content[position : position + length].decode()] = content[end : end + size]
        position = end + size
    return files


#: A tool that reads stored archives of the newer format alone, for machines without unar and bsdtar.
STAND_IN = f"""\
#!{sys.executable}
import pathlib, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from rar_writer import read_stored
archive = next(one for one in sys.argv[1:] if one.endswith(".rar"))
folder = pathlib.Path(next(b for a, b in zip(sys.argv, sys.argv[1:]) if a in ("-C", "-output-directory")))
for name, content in read_stored(pathlib.Path(archive).read_bytes()).items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
"""


def install(folder: Path, scripts: dict[str, str]) -> None:
    """Write scripts that take the tools' places where `folder` is PATH."""
    folder.mkdir()
    for tool, text in scripts.items():
        (folder / tool).write_text(text)
        (folder / tool).chmod(0o755)
