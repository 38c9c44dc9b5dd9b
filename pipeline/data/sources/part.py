"""What a transfer is made of: addresses, a file's part on disk, patience with servers, and what a protocol must do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict
from urllib.parse import urlsplit

from pipeline.errors import EverestError
from pipeline.system.files import write_text


@dataclass(frozen=True)
class Address:
    """One place of a file, with the hashes that are known of what lies there."""

    url: str
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: `name` is its path below the folder, `addresses` are tried in order."""

    name: str
    addresses: tuple[Address, ...]
    bytes: int | None = None


@dataclass(frozen=True)
class Patience:
    """When to give up. A connection slower than `min_rate` bytes a second over a window is dropped."""

    timeout_seconds: float = 30.0
    attempts: int = 6
    backoff_seconds: float = 1.0
    max_wait_seconds: float = 300.0
    min_rate: float = 1024.0
    window_seconds: float = 60.0


class AddressFailed(EverestError):
    """This address gives the file now in no way; the next one may."""


class NotThere(AddressFailed):
    """The address answers that it has no such file."""


class Throttle:
    """A bandwidth cap shared by threads. 0 or None: no cap."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int) -> None:
        if not self._rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            pause = self._free_at - time.monotonic()
        if pause > 0:
            time.sleep(pause)


class Version(TypedDict, total=False):
    """Where a part's bytes came from, as its note says; empty where nothing is known.

    `url` is without secrets; `etag` and `modified` are the server's; `whole_only` bytes cannot be continued; `bytes` is
    the size of an object in S3.
    """

    url: str
    etag: str
    modified: str
    whole_only: bool
    bytes: int


@dataclass
class Part:
    """A file in the making. `version` names the bytes' origin; they are dropped when it changes."""

    path: Path
    note: Path
    throttle: Throttle
    stop: threading.Event
    report: Callable[[int, int | None], None]
    version: Version = field(default_factory=Version)
    total: int | None = None

    def load(self) -> None:
        """Take up what an earlier process left."""
        try:
            self.version = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.restart({})

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def restart(self, version: Version) -> None:
        """Drop all bytes; what follows belongs to `version`."""
        self.path.unlink(missing_ok=True)
        self.version = version
        write_text(self.note, json.dumps(version))

    def append(self, block: bytes) -> None:
        if self.stop.is_set():
            raise EverestError("interrupted; starting again continues.")
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            raise EverestError(
                f"{self.path} cannot be written: {error.strerror}. Cure: free some space (what came is kept), or mend "
                "the folder's permissions, and start again."
            ) from None
        self.throttle.take(len(block))
        self.report(self.size, self.total)


class Transport(Protocol):
    """HTTP or S3."""

    def size(self, url: str) -> int | None:
        """Bytes of the file at `url`; None if the server does not tell.

        Raises:
            AddressFailed: nothing is there, or no access.
        """

    def fetch(self, address: Address, part: Part) -> None:
        """Complete `part` from an address, continuing what is there.

        Raises:
            AddressFailed: after all attempts, or at once where trying again is no use.
        """


def safe_url(url: str) -> str:
    """An address for messages: without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
