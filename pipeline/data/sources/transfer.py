"""Brings remote files into a folder: in parallel, resumed, verified, each named only when it is whole.

What is known of an unfinished file lies beside it in `.everest/parts`: its bytes so far and a JSON note of
the address and version (ETag) that they came from. A lock for each file keeps two processes from fetching it
twice.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from hashlib import file_digest, sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.part import (
    Address,
    AddressFailed,
    NotThere,
    Part,
    Patience,
    RemoteFile,
    Throttle,
    Transport,
    safe_url,
)
from pipeline.errors import EverestError, InputError
from pipeline.system.files import publish_file, require_space, write_text
from pipeline.system.locks import locked
from pipeline.system.progress import byte_bar

log = logging.getLogger(__name__)

NOTES = ".everest"
CONNECTIONS = 4
#: [MiB/s] for all files together; absent: no cap.
RATE_VARIABLE = "EVEREST_MAX_MIB_PER_SECOND"


class Downloader:
    """Fetches files into one folder.

    Args:
        folder: files appear below it under their names.
        profile: name of the AWS profile for s3:// addresses; None uses the usual chain, then no credentials.
        patience: when to give up.
        max_rate: bytes a second for all files together; None takes EVEREST_MAX_MIB_PER_SECOND.
    """

    def __init__(
        self,
        folder: Path,
        profile: str | None = None,
        patience: Patience | None = None,
        max_rate: float | None = None,
    ) -> None:
        self._folder = folder
        self._profile = profile
        self._patience = patience or Patience()
        self._throttle = Throttle(max_rate if max_rate is not None else _rate_from_environment())
        self._protocols: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def plan(self, files: Sequence[RemoteFile]) -> list[PlannedFile]:
        """Sizes without fetching."""
        planned = []
        for file in files:
            here = self._folder / file.name
            size, url = here.stat().st_size if here.exists() else None, file.addresses[0].url
            if size is None:
                size, url = self._ask_size(file)  # a mirror's copy may differ from what the catalogue says
                size = file.bytes if size is None else size
            planned.append(PlannedFile(file.name, safe_url(url), size, here.exists()))
        return planned

    def fetch(self, files: Sequence[RemoteFile]) -> list[Path]:
        """Fetch what is not there yet; returns all paths in the order of `files`.

        Raises:
            InputError: not enough free space, or no address accepts the user's credentials.
            NotThere: every address of a file answers that it has none.
            EverestError: a file cannot be had whole from any address. The others' bytes are kept.
        """
        missing = [file for file in files if not (self._folder / file.name).exists()]
        if missing:
            sizes = [size for size in (one.bytes for one in self.plan(missing)) if size is not None]
            require_space(self._folder, sum(sizes) - self._held(missing), "the download")
            self._fetch_all(missing, sum(sizes) if len(sizes) == len(missing) else None)
        return [self._folder / file.name for file in files]

    def _fetch_all(self, missing: list[RemoteFile], total: int | None) -> None:
        stop = threading.Event()
        with byte_bar("fetching", total, len(missing)) as update, ThreadPoolExecutor(CONNECTIONS) as pool:
            tasks = [pool.submit(self._fetch_one, file, update, stop) for file in missing]
            try:
                while tasks:
                    # A finite wait, so that Ctrl-C is noticed.
                    done, pending = wait(tasks, timeout=0.5, return_when=FIRST_EXCEPTION)
                    tasks = list(pending)
                    for task in done:
                        task.result()
            except BaseException:
                stop.set()
                for task in tasks:
                    task.cancel()
                raise

    def _fetch_one(
        self, file: RemoteFile, update: Callable[[str, int, int | None], None], stop: threading.Event
    ) -> None:
        target = self._folder / file.name
        key = sha256(file.name.encode()).hexdigest()[:16]
        notes = self._folder / NOTES / "parts"
        notes.mkdir(parents=True, exist_ok=True)
        with locked(notes / f"{key}.lock", file.name, wait=True):
            if target.exists():  # another process was faster
                return
            failures: list[AddressFailed] = []
            for address in file.addresses:
                part = Part(
                    notes / f"{key}.part",
                    notes / f"{key}.json",
                    self._throttle,
                    stop,
                    lambda done, total: update(file.name, done, total),
                )
                part.load()
                if part.version.get("url") not in (None, safe_url(address.url)) and not address.sha256:
                    part.restart({})  # two mirrors' bytes are joined only where a hash can judge the result
                try:
                    self._complete(file, address, part)
                except AddressFailed as error:
                    failures.append(error)
                    continue
                self._publish(part, target, address)
                return
            kind = NotThere if all(isinstance(error, NotThere) for error in failures) else EverestError
            raise kind(
                f"{file.name} cannot be fetched:\n  " + "\n  ".join(map(str, failures)) + "\nStarting again continues "
                f"where it stopped; a file put at {target} by hand is taken as it is."
            )

    def _complete(self, file: RemoteFile, address: Address, part: Part) -> None:
        """All bytes, with the right hash; a wrong hash is given one more try from the first byte."""
        for last in (False, True):
            self._protocol(address.url).fetch(address, part)
            wrong = _wrong_hash(part.path, address)
            if not wrong:
                return
            log.warning("%s: %s; its bytes are dropped", file.name, wrong)
            part.restart({})
            if last:
                raise AddressFailed(f"{safe_url(address.url)}: {wrong}")

    def _publish(self, part: Part, target: Path, address: Address) -> None:
        with part.path.open("rb") as content:
            digest = file_digest(content, "sha256").hexdigest()
        record = {"name": target.name, "url": safe_url(address.url), "sha256": digest, "bytes": part.size}
        name = os.fspath(target.relative_to(self._folder))
        write_text(self.record(name), json.dumps(record, indent=1) + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        publish_file(part.path, target)
        part.note.unlink(missing_ok=True)

    def record(self, name: str) -> Path:
        """Where it is noted that the file of this name was fetched: its address, hash and bytes."""
        return self._folder / NOTES / "fetched" / f"{sha256(name.encode()).hexdigest()[:16]}.json"

    def _held(self, files: Sequence[RemoteFile]) -> int:
        keys = [sha256(file.name.encode()).hexdigest()[:16] for file in files]
        parts = [self._folder / NOTES / "parts" / f"{key}.part" for key in keys]
        return sum(part.stat().st_size for part in parts if part.exists())

    def _ask_size(self, file: RemoteFile) -> tuple[int | None, str]:
        for address in file.addresses:
            try:
                return self._protocol(address.url).size(address.url), address.url
            except AddressFailed as error:
                log.info("%s", error)
        return None, file.addresses[0].url

    def _protocol(self, url: str) -> Transport:
        scheme = urlsplit(url).scheme
        with self._lock:
            if scheme not in self._protocols:
                self._protocols[scheme] = self._make(scheme, url)
            return self._protocols[scheme]

    def _make(self, scheme: str, url: str) -> Transport:
        if scheme in ("http", "https"):
            from pipeline.data.sources.http import Http

            return Http(self._patience)
        if scheme == "s3":
            from pipeline.data.sources.s3 import S3

            return S3(self._profile, self._patience)
        if scheme == "file":
            return LocalCopy()
        raise InputError(
            f"{safe_url(url)}: cannot fetch from {scheme!r}. Cure: http(s)://, s3:// or file:// addresses."
        )


class LocalCopy:
    """file:// addresses: a mirror on a mounted disk."""

    def size(self, url: str) -> int | None:
        return self._path(url).stat().st_size

    def fetch(self, address: Address, part: Part) -> None:
        source = self._path(address.url)
        part.restart({"url": safe_url(address.url)})
        part.total = source.stat().st_size
        with source.open("rb") as file:
            while block := file.read(1 << 20):
                part.append(block)
        if not part.total:
            part.path.touch()

    @staticmethod
    def _path(url: str) -> Path:
        path = Path(unquote(urlsplit(url).path))
        if not path.is_file():
            raise NotThere(f"{safe_url(url)}: no such file")
        return path


def _wrong_hash(path: Path, address: Address) -> str:
    for kind, expected in (("sha256", address.sha256), ("md5", address.md5)):
        if expected:
            with path.open("rb") as file:
                digest = file_digest(file, kind).hexdigest()
            if digest != expected.lower():
                return f"{kind} is {digest}, expected {expected}"
    return ""


def _rate_from_environment() -> float | None:
    text = os.environ.get(RATE_VARIABLE)
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if rate <= 0:
        raise InputError(f"{RATE_VARIABLE} = {text!r} is no positive number. Cure: MiB per second, or unset it.")
    return rate * 2**20
