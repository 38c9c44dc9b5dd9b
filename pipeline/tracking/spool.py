"""The spool: an append-only file of tracking records, so that training never waits for a tracking server.

Ranks and stages append; an uploader in another thread or process reads (see `upload.py`). One JSON object a
line:

    {"k": "m", "t": 1700000000000, "s": 3, "v": {"train/loss": 0.5}}   metrics (s null: a summary value)
    {"k": "p", "v": {"pretrain.epochs": "10"}}                         parameters
    {"k": "g", "v": {"git.commit": "..."}}                             tags
    {"k": "a", "path": "...", "folder": "pictures"}                    a file to keep with the run
    {"k": "r", "path": "...", "name": "...", "tags": {...}}            a model folder for the registry

A line is written by one `write` to a file opened with O_APPEND, so several processes may share a spool; a
line torn by a crash or a full disk is closed by the next writer and skipped by readers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from pipeline.system.disk import DiskFullError
from pipeline.system.files import flush, link
from pipeline.system.redact import redact, redact_value
from pipeline.system.text import storable

#: Seconds between two flushes to the disk itself. What a killed process wrote is safe without (the system
#: holds it); this bounds what a power cut takes.
SYNC_SECONDS = 2.0


class Metrics(TypedDict):
    """Values by name at a time in ms and a step; a summary's step is None."""

    k: Literal["m"]
    t: int
    s: int | None
    v: dict[str, float]


class Texts(TypedDict):
    """Parameters ("p") or tags ("g") by name."""

    k: Literal["p", "g"]
    v: dict[str, str]


class Artifact(TypedDict):
    """A file or folder beside the spool, to be kept under `folder`."""

    k: Literal["a"]
    path: str
    folder: str


class Model(TypedDict):
    """A model folder beside the spool, to become the next version of `name`."""

    k: Literal["r"]
    path: str
    name: str
    tags: dict[str, str]
    aliases: NotRequired[list[str]]


Record = Metrics | Texts | Artifact | Model


class Spool:
    """Appends records to one run's spool. Cheap enough for every training step (tens of microseconds)."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        self._synced = time.monotonic()
        self._torn = b""
        end = self._file.seek(0, os.SEEK_END)
        if end and os.pread(self._file.fileno(), 1, end - 1) != b"\n":
            self._file.write(b"\n")

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers under their names. NaN and infinities are left out: the store would falsify them."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._append({"k": "m", "t": time.time_ns() // 1_000_000, "s": step, "v": finite})

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters. A name's first value stays: the store refuses a change."""
        self._append({"k": "p", "v": as_texts(values)})

    def tags(self, values: Mapping[str, object]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self._append({"k": "g", "v": as_texts(values)})

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Keep a file, or all files of a folder, with the run under `folder`.

        The bytes are held beside the spool (a hard link where possible), so the caller may move or delete
        its own.

        Raises:
            FileNotFoundError: there is no such file.
        """
        held = self._hold(Path(path))
        self._append({"k": "a", "path": str(held.relative_to(self.path.parent)), "folder": folder})

    def text(self, text: str, name: str, folder: str = "") -> None:
        """Keep a text, with secrets removed, as the file `name`."""
        held = self._new_hold() / name
        held.write_text(redact(text), encoding="utf-8", errors="backslashreplace")
        self._append({"k": "a", "path": str(held.relative_to(self.path.parent)), "folder": folder})

    def model(self, path: Path | str, name: str, tags: Mapping[str, object], aliases: tuple[str, ...] = ()) -> None:
        """Hand a model folder (safetensors and JSON) to the registry as the next version of `name`."""
        held = self._hold(Path(path))
        self._append(
            {
                "k": "r",
                "path": str(held.relative_to(self.path.parent)),
                "name": name,
                "tags": {key: as_text(value) for key, value in tags.items()},
                "aliases": list(aliases),
            }
        )

    def copy(self, records: Iterable[Record]) -> None:
        """Append records of another spool, with the times that they have."""
        for record in records:
            self._append(record)

    def sync(self) -> None:
        """Flush to the disk."""
        flush(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, record: Record) -> None:
        line = self._torn + json.dumps(record, separators=(",", ":")).encode() + b"\n"
        written = self._file.write(line)
        self._torn = b"" if written == len(line) else b"\n"
        if self._torn:
            raise DiskFullError(self.path)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def _new_hold(self) -> Path:
        folder = self.path.parent / "held" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return folder

    def _hold(self, source: Path) -> Path:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file to keep with the run")
        target = self._new_hold() / source.name
        if source.is_dir():
            shutil.copytree(source, target, copy_function=link)
        else:
            link(source, target)
        return target


def read_records(path: Path, offset: int = 0, limit: int = 2000) -> tuple[list[Record], int]:
    """Records after `offset` and the offset behind the last of them. A last line still being written is left."""
    records: list[Record] = []
    for line in _lines(path, offset, limit):
        offset += len(line)
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn by a crash
        if isinstance(record, dict) and "k" in record:
            records.append(record)  # type: ignore[arg-type]
    return records, offset


def _lines(path: Path, offset: int, limit: int) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for _ in range(limit):
            line = file.readline()
            if not line.endswith(b"\n"):
                return
            yield line


def as_texts(values: Mapping[str, object]) -> dict[str, str]:
    """Parameters or tags as the store keeps them, with secrets removed."""
    return {name: as_text(redact_value(name, value)) for name, value in values.items()}


def as_text(value: object) -> str:
    """A parameter or tag as the store keeps it: strings as they are, everything else as JSON."""
    text = storable(value)
    return text if isinstance(text, str) else json.dumps(text, default=str)
