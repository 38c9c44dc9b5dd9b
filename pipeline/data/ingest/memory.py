"""What was found about the files of a folder, kept beside them in `.everest/`: one JSON line for each, as it finishes.

An unchanged file (same size and modification time) is found again, also after this process was killed. Where the folder
takes no notes (another user's, a read-only disk, a link or a pipe in their place), they lie in this project's
`.work/notes` instead.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from pipeline import layout
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import Measurement
from pipeline.system.files import atomic_path, open_plain
from pipeline.system.locks import locked

log = logging.getLogger(__name__)

#: A dataclass.
Found = TypeVar("Found")

#: The folder beside the videos for what this project notes about them.
NOTES = ".everest"

#: Reasons that may pass by themselves, so they are never remembered.
_PASSING = frozenset({"missing", "unreadable", "crashed", "not_a_file", "bad_name"})
#: Reasons that depend on the limits: measured again when the limits were raised.
_LIMITED = frozenset({"deadline", "memory"})


@dataclass(frozen=True)
class Note(Generic[Found]):
    """A line of the notes: what was found about a file, under which limits (seconds, bytes) and by which version."""

    path: str
    version: str
    limits: tuple[float, int]
    found: Found


class Memory(Generic[Found]):
    """The findings of earlier calls, by path. Lines are appended whole; a torn last line is ignored."""

    def __init__(
        self,
        root: Path,
        name: str,
        version: str,
        limits: Limits,
        kind: type[Found],
        measured: Callable[[Found], Measurement],
    ) -> None:
        """Read what is known.

        Args:
            root: folder of the files.
            name: of the notes.
            version: of what is noted; what another one noted is not found again.
            limits: that findings are made under.
            kind: dataclass of a finding.
            measured: the measurement in a finding.
        """
        self._root = root
        self._version = version
        self._limits = limits
        self._measured = measured
        self._file = root / NOTES / name
        self._elsewhere = layout.WORK / "notes" / layout.fingerprint(os.path.realpath(root)) / name
        self._known: dict[str, Note[Found]] = {}
        self._stale = 0
        self._descriptor: int | None = None
        reader: TypeAdapter[Note[Found]] = TypeAdapter(Note[kind])  # type: ignore[valid-type]
        for file in (self._elsewhere, self._file):
            for line in _content(file).splitlines():
                self._read(line, reader)

    def _read(self, line: bytes, reader: TypeAdapter[Note[Found]]) -> None:
        try:
            entry: Any = json.loads(line)
            if isinstance(entry, dict) and entry.get("version") != self._version:
                raise ValueError("another version's, of which the finding may have other entries")
            self._keep(reader.validate_python(entry))
        except ValueError:
            self._stale += 1

    def _keep(self, note: Note[Found]) -> None:
        self._stale += note.path in self._known
        self._known[note.path] = note

    def recall(self, path: str) -> Found | None:
        """The finding about an unchanged file, if it was made under limits not below today's."""
        note = self._known.get(path)
        if note is None:
            return None
        measurement = self._measured(note.found)
        if measurement.reason in _LIMITED:
            deadline, memory = note.limits
            if self._limits.deadline_seconds > deadline or self._limits.memory_bytes > memory:
                return None
        try:
            now = os.stat(f"{self._root}/{path}")  # noqa: PTH116 - ten thousand Paths would cost a second
        except OSError:
            return None
        unchanged = (now.st_size, now.st_mtime_ns) == (measurement.bytes, measurement.mtime_ns)
        return note.found if unchanged else None

    def note(self, path: str, found: Found) -> None:
        """Remember a finding, unless its reason may pass by itself."""
        if self._measured(found).reason in _PASSING:
            return
        note = Note(path, self._version, (self._limits.deadline_seconds, self._limits.memory_bytes), found)
        self._keep(note)
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, _line(note).encode())  # one write of one line: writers side by side do not mix
        except OSError as error:
            self.__exit__()
            self._warn(error)

    def __enter__(self) -> Memory[Found]:
        try:
            self._open()
        except OSError:  # a folder of somebody else's, a read-only or a full disk
            self.__exit__()
            self._file = self._elsewhere
            try:
                self._open()
            except OSError as error:  # measuring needs neither
                self.__exit__()
                self._warn(error)
        return self

    def _open(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._stale > len(self._known):
            self._compact()
        self._descriptor = open_plain(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # the last writer was killed within a line

    def _warn(self, error: OSError) -> None:
        log.warning(
            "%s cannot be written (%s): what is measured now will be measured again next time",
            self._file,
            error.strerror,
        )

    def _compact(self) -> None:
        with (
            locked(self._file.with_suffix(".lock"), str(self._file), wait=True),
            atomic_path(self._file) as new,
        ):
            new.write_text("".join(map(_line, self._known.values())), encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _content(path: Path) -> bytes:
    """What notes hold; nothing where there are none, or none that may be read."""
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _line(note: Note[Found]) -> str:
    return json.dumps(asdict(note)) + "\n"
