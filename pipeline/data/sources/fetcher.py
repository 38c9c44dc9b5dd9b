"""Brings a benchmark's files into its raw folder, and knows how much room they take."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from pipeline.data.archives.unpack import unpack
from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.catalogue import Item
from pipeline.data.sources.part import Address, RemoteFile, safe_url
from pipeline.data.sources.transfer import Downloader
from pipeline.errors import EverestError
from pipeline.params import OfficialSource
from pipeline.system.files import read_json, write_json

log = logging.getLogger(__name__)

#: Archives and lists as they were fetched, in the raw folder.
DOWNLOADS = "downloads"

#: In the record of a fetched archive: all of it is out.
UNPACKED = "unpacked"

#: The list of checksums that a mirror may have beside its files.
CHECKSUMS = "SHA256SUMS"
#: A line of it: a digest, and a name that `*` marks as read in binary mode.
_LISTED = re.compile(r"([0-9a-fA-F]{64})\s+(\S.*)")


class Fetcher:
    """Brings items into the raw folder: mirrors first, unpacked, and remembered."""

    def __init__(self, raw: Path, source: OfficialSource) -> None:
        self.raw = raw
        self.source = source
        self.downloader = Downloader(raw, profile=source.profile)
        self._sums: dict[str, dict[str, str]] | None = None

    def is_done(self, item: Item) -> bool:
        """Whether the item's content is where it belongs."""
        return (self.raw / (item.into or item.place or f"{DOWNLOADS}/{item.key}")).exists()

    def remote(self, item: Item) -> RemoteFile:
        """The item's addresses: each mirror, then the publisher's own."""
        mirrors = [
            Address(f"{base.rstrip('/')}/{quote(item.key)}", self._sum(base, item.key) or _only_hash(item))
            for base in self.source.mirrors
        ]
        return RemoteFile(item.place or f"{DOWNLOADS}/{item.key}", (*mirrors, *item.addresses), item.bytes)

    def plan(self, item: Item) -> list[PlannedFile]:
        return self.downloader.plan([self.remote(item)])

    def bring(self, items: Iterable[Item]) -> None:
        """Fetch and unpack what is not done yet. Archives fetched here are removed once they are unpacked."""
        missing = [item for item in items if not self.is_done(item)]
        plain = [item for item in missing if item.into is None]
        self.downloader.fetch([self.remote(item) for item in plain])
        for item in missing:
            if item.into is not None:
                self._bring_archive(item)

    def _bring_archive(self, item: Item) -> None:
        assert item.into is not None
        failures = []
        for form in (item, *item.alternatives):
            remote = self.remote(form)
            place, record = self.raw / remote.name, self.downloader.record(remote.name)
            by_hand = place.exists() and not _was_fetched(place, record)
            try:
                archive = self.downloader.fetch([remote])[0]
                count = unpack(archive, self.raw / item.into)
            except EverestError as error:
                failures.append(str(error))
                continue
            log.info("%s: %d files in %s", form.key, count, item.into)
            if not by_hand:
                # Noted first: one that is put here later by hand is not taken for this one.
                write_json(record, {**read_json(record), UNPACKED: True})
                archive.unlink()
            return
        raise EverestError("\n".join(failures))

    def _sum(self, base: str, key: str) -> str | None:
        """The SHA-256 that a mirror lists for a file in its SHA256SUMS, if it has one."""
        if self._sums is None:
            self._sums = {}
        if base not in self._sums:
            self._sums[base] = self._read_sums(base)
        return self._sums[base].get(key)

    def _read_sums(self, base: str) -> dict[str, str]:
        name = hashlib.sha256(base.encode()).hexdigest()[:12]
        place = f".everest/mirrors/{name}-{os.getpid()}"
        remote = RemoteFile(place, (Address(f"{base.rstrip('/')}/{CHECKSUMS}"),))
        try:
            path = self.downloader.fetch([remote])[0]
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            path.unlink()
        except EverestError:
            lines = []
        # Some servers answer with a page, and no error, for a file that they do not have.
        pairs = [match.groups() for line in lines if (match := _LISTED.fullmatch(line.strip()))]
        if not pairs:
            log.info("%s has no %s: the publisher's checksums are used", safe_url(base), CHECKSUMS)
        return {name.lstrip("*./"): digest for digest, name in pairs}


def _was_fetched(archive: Path, record: Path) -> bool:
    """Whether an archive that lies there was fetched, and its unpacking broken off."""
    noted = read_json(record)
    return not noted.get(UNPACKED) and noted.get("bytes") == archive.stat().st_size


def _only_hash(item: Item) -> str | None:
    """The publisher's SHA-256 holds for a mirror that names none of its own."""
    return next((address.sha256 for address in item.addresses if address.sha256), None)
