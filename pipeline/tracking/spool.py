"""The spool: an append-only file of tracking records, so that training never waits for a tracking server.

Ranks and stages append; an uploader in another thread or process reads (see `upload.py`). One JSON object a
line:

    {"k": "m", "t": 1700000000000, "s": 3, "v": {"train/loss": 0.5}}   metrics (s null: a summary value)
    {"k": "p", "v": {"pretrain.epochs": "10"}}                         parameters
    {"k": "g", "v": {"git.commit": "..."}}                             tags
    {"k": "a", "path": "...", "folder": "pictures"}                    a file to keep with the run
    {"k": "r", "path": "...", "name": "...", "tags": {...}}            a model folder for the registry

A line is written by one `write` to a file opened with O_APPEND, so several processes may share a spool; a
line torn by a crash is closed by the next writer and skipped by readers.
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
from typing import Any

from pipeline.system.files import link
from pipeline.system.redact import redact, redact_value
from pipeline.system.text import storable

#: Seconds between two flushes to the disk itself. What a killed process wrote is safe without (the system
#: holds it); this bounds what a power cut takes.
SYNC_SECONDS = 2.0


class Spool:
    """Appends records to one run's spool. Cheap enough for every training step (tens of microseconds)."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._synced = time.monotonic()
        end = os.lseek(self._file, 0, os.SEEK_END)
        if end and os.pread(self._file, 1, end - 1) != b"\n":
            os.write(self._file, b"\n")

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers under their names. NaN and infinities are left out: the store would falsify them."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._append({"k": "m", "t": time.time_ns() // 1_000_000, "s": step, "v": finite})

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters. A name's first value stays: the store refuses a change."""
        self._append({"k": "p", "v": {name: as_text(redact_value(name, v)) for name, v in values.items()}})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self._append({"k": "g", "v": {name: as_text(redact_value(name, v)) for name, v in values.items()}})

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

    def model(self, path: Path | str, name: str, tags: Mapping[str, Any], aliases: tuple[str, ...] = ()) -> None:
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

    def copy(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records of another spool, with the times that they have."""
        for record in records:
            self._append(record)

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")
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


def read_records(path: Path, offset: int = 0, limit: int = 2000) -> tuple[list[dict[str, Any]], int]:
    """Records after `offset` and the offset behind the last of them. A last line still being written is left."""
    pairs = list(_lines(path, offset, limit))
    return [record for record, _ in pairs], pairs[-1][1] if pairs else offset


def _lines(path: Path, offset: int, limit: int) -> Iterator[tuple[dict[str, Any], int]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for _ in range(limit):
            line = file.readline()
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                record = {}
            yield (record if isinstance(record, dict) else {}), offset


def as_text(value: Any) -> str:
    """A parameter or tag as the store keeps it: strings as they are, everything else as JSON."""
    text = storable(value)
    return text if isinstance(text, str) else json.dumps(text, default=str)
