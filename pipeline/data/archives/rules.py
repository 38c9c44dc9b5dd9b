"""What an archive may hold: plain paths inside the folder, no links or devices, and only so many bytes."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError

SET_ID = stat.S_ISUID | stat.S_ISGID


RAR_MAGIC = b"Rar!\x1a\x07"


ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Caps:
    """The most that an archive may hold. `ratio`: bytes out for each byte in (text compresses to a tenth)."""

    entries: int = 2_000_000
    bytes: int = 2 * 2**40
    ratio: float = 120.0


TRUST = "do not use this archive; fetch it from the publisher again and compare its checksum."


class HostileArchive(InputError):
    """An archive that asks for something which no set of videos needs."""


def kind_of(path: Path) -> str:
    """The kind by content, "zip", "rar" or "tar"; a tar is whatever Python's tarfile may know, compressed or not."""
    with path.open("rb") as file:
        head = file.read(8)
    return "zip" if head[:4] in ZIP_MAGICS else "rar" if head[:6] == RAR_MAGIC else "tar"


class Meter:
    """Counts what comes out and stops at the caps."""

    def __init__(self, caps: Caps, archive_bytes: int, name: str) -> None:
        self.caps = caps
        self.name = name
        self.entries = 0
        self.bytes = 0
        # Small archives may grow a lot without harm.
        self.limit = min(caps.bytes, max(int(archive_bytes * caps.ratio), 1 << 20))

    def entry(self, count: int = 1) -> None:
        self.entries += count
        if self.entries > self.caps.entries:
            raise HostileArchive(f"{self.name} holds more than {self.caps.entries} entries. Cure: {TRUST}")

    def grow(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limit:
            raise HostileArchive(
                f"{self.name} unpacks to more than {self.limit / 2**20:.0f} MiB, which its size does not justify. "
                f"Cure: {TRUST}"
            )


def checked_path(folder: Path, name: str, archive: str, *, plain: bool, mode: int) -> Path:
    """Where an entry goes.

    Raises:
        HostileArchive: its name leaves the folder, or it is no plain file or folder.
    """
    path = PurePosixPath(name)
    wrong = ""
    if path.is_absolute() or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
        wrong = "is an absolute or foreign path"
    elif ".." in path.parts:
        wrong = "points outside the folder"
    elif not plain:
        wrong = "is a link, device or pipe"
    elif mode & SET_ID:
        wrong = "sets a user or group id"
    if wrong:
        raise HostileArchive(f"{archive}: {name!r} {wrong}. Cure: {TRUST}")
    return folder / path
