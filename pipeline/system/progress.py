"""What is going on, for a person at a terminal: a line for each stage that runs, redrawn in place.

    everest demo          owns the terminal (`watched`): draws the files of one folder, with a clock each
    +- flow               a file for each stage that runs (`stage_line`)
       +- stage, ranks    write what they are at into the file that EVEREST_PROGRESS names (`Line`)

What these processes say on stderr appears above the lines, whole. Without a terminal, or with EVEREST_QUIET, all of
this is silent; a process that is alone on a terminal draws its line itself. Whoever looks or not, a stage's line is
also in the file that EVEREST_NOTED names (`noted`), every two seconds, for `everest status`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.system.text import printable

VARIABLE, NOTED = "EVEREST_PROGRESS", "EVEREST_NOTED"
#: [s] between two drawings, and between two texts of one line; between two that are noted for `everest status`.
INTERVAL, NOTE_SECONDS = 0.2, 2.0
_SPINNER = "|/-\\"


def watching() -> bool:
    """Whether a process above draws what this one writes."""
    return bool(os.environ.get(VARIABLE)) and not os.environ.get("EVEREST_QUIET")


def wanted() -> bool:
    """Whether somebody looks."""
    return watching() or (sys.stderr.isatty() and not os.environ.get("EVEREST_QUIET"))


class Line:
    """A line that says what this process is at; any thread may write it. Silent where nobody looks."""

    def __init__(self, label: str = "", enabled: bool | None = None) -> None:
        self._label = f"{label} " if label else ""
        self._enabled = wanted() if enabled is None else enabled
        self._file = Path(os.environ[VARIABLE]) if self._enabled and watching() else None
        self._note = Path(os.environ[NOTED]) if os.environ.get(NOTED) else None
        self._shown = self._noted = 0.0
        self._lock = threading.Lock()

    def show(self, text: str, now: bool = False) -> None:
        """Replace the line's text, at most five times a second unless `now`."""
        if self._note is not None and time.monotonic() - self._noted > NOTE_SECONDS:
            self._noted = time.monotonic()
            _replace(self._note, printable(self._label + text))
        if not self._enabled or (not now and time.monotonic() - self._shown < INTERVAL):
            return
        with self._lock:
            self._shown = time.monotonic()
            text = printable(self._label + text)
            if self._file is None:
                columns = shutil.get_terminal_size().columns
                sys.stderr.write(f"\r\x1b[K{text[: columns - 1]}")
                sys.stderr.flush()
                return
            _replace(self._file, text)

    def close(self) -> None:
        """Take the text away."""
        if not self._shown:
            return
        if self._file is not None:
            self._label = ""
            self.show("", now=True)
        else:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._shown = 0.0


def _replace(file: Path, text: str) -> None:
    """Put a text in the place of another; where its reader has taken the file away, nobody misses it."""
    with contextlib.suppress(OSError):
        unfinished = file.with_name(f".{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        if file.exists():
            unfinished.replace(file)
        else:
            unfinished.unlink()


@contextlib.contextmanager
def noted(file: Path) -> Iterator[None]:
    """Until the end, what the lines of this process and its children say is in `file` too."""
    before = os.environ.get(NOTED)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    os.environ[NOTED] = str(file.absolute())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.environ.pop(NOTED)
        if before is not None:
            os.environ[NOTED] = before


def counted(label: str, done: int, total: int, began: float) -> str:
    """`label 120/1024  33.1/s  0:27 left`."""
    rate = done / max(time.monotonic() - began, 1e-9)
    left = f"  {clock((total - done) / rate)} left" if done and total else ""
    return f"{label} {done}/{total}  {rate:.1f}/s{left}"


Item = TypeVar("Item")


class Counter(Protocol):
    """Hands on each item of so many, and shows how many there were."""

    def __call__(self, items: Iterable[Item], total: int) -> Iterator[Item]: ...


def counter(label: str) -> Counter:
    """A wrapper for an iterable of `total` finished items, which shows count, rate and time left."""

    def wrap(items: Iterable[Item], total: int) -> Iterator[Item]:
        line, began = Line(), time.monotonic()
        line.show(f"{label} 0/{total}")
        try:
            for done, item in enumerate(items, 1):
                line.show(counted(label, done, total, began))
                yield item
        finally:
            line.close()

    return wrap


class Bar:
    """Call it with (done, total); the line goes away when all are done."""

    def __init__(self, label: str) -> None:
        self._line, self._label, self._began = Line(), label, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self._line.show(counted(self._label, done, total, self._began))
        if done >= total:
            self._line.close()


@contextlib.contextmanager
def byte_bar(label: str, total: int | None, files: int) -> Iterator[Callable[[str, int, int | None], None]]:
    """A line for parallel downloads of so many files.

    Yields `update(file, bytes_done, bytes_total)`, safe from any thread.
    """
    line, began = Line(), time.monotonic()
    done: dict[str, int] = {}
    complete: set[str] = set()

    def update(file: str, bytes_done: int, bytes_total: int | None) -> None:
        done[file] = bytes_done
        if bytes_total is not None and bytes_done >= bytes_total:
            complete.add(file)
        so_far = sum(list(done.values()))
        rate = so_far / max(time.monotonic() - began, 1e-9)
        of = f" of {total / 1e9:.2f}" if total else ""
        left = f", {clock((total - so_far) / rate)} left" if total and so_far else ""
        size = f"{so_far / 1e9:.2f}{of} GB, {rate / 1e6:.1f} MB/s"
        line.show(f"{label}, {len(complete)} of {files} files, {size}{left}")

    try:
        yield update
    finally:
        line.close()


def clock(seconds: float) -> str:
    """`0:27`, `12:03`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _file_name(label: str) -> str:
    return label.replace("/", "_").lstrip(".") or "_"


@contextlib.contextmanager
def stage_line(name: str) -> Iterator[dict[str, str]]:
    """A line of its own for a stage, as long as it runs; yields the environment of the stage's process."""
    if not watching():
        yield {}
        return
    file = Path(os.environ[VARIABLE]).with_name(_file_name(name))
    with contextlib.suppress(OSError):
        file.write_text("", encoding="utf-8")
    try:
        yield {VARIABLE: str(file)}
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def watched(label: str) -> Iterator[None]:
    """Own the terminal: until the end, this process draws the lines of all below it, from the first moment on.

    Their stderr and our own pass through here. Does nothing without a terminal, or below another owner.
    """
    if watching() or not wanted():
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="everest-progress-"))
    file = folder / _file_name(label)
    file.touch()
    os.environ[VARIABLE] = str(file)
    sys.stderr.flush()
    terminal = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    drawing = _Drawing(terminal, source, file)
    drawing.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os.dup2(terminal, 2)
        drawing.finish()
        os.close(terminal)
        os.close(source)
        del os.environ[VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


class _Drawing(threading.Thread):
    """Draws the lines, and prints what comes through the pipe above them."""

    def __init__(self, terminal: int, source: int, file: Path) -> None:
        super().__init__(name="progress", daemon=True)
        self._terminal, self._source, self._file = terminal, source, file
        self._ending = threading.Event()
        self._since: dict[str, float] = {file.name: time.monotonic()}
        self._drawn = 0
        self._turn = 0
        self._rest = b""

    def run(self) -> None:
        while not self._ending.is_set():
            ready, _, _ = select.select([self._source], [], [], INTERVAL)
            if ready:
                self._print(os.read(self._source, 65536))
            self._draw()

    def finish(self) -> None:
        """Print what is still in the pipe, and leave the terminal clean."""
        self._ending.set()
        self.join()
        # A process that outlives us may hold the other end: its end of file is not waited for.
        while select.select([self._source], [], [], 0)[0]:
            data = os.read(self._source, 65536)
            if not data:
                break
            self._print(data)
        self._print(b"\n" if self._rest else b"")
        self._erase()

    def _print(self, data: bytes) -> None:
        lines, _, self._rest = (self._rest + data).rpartition(b"\n")
        if lines:
            self._erase()
            self._write(lines + b"\n")

    def _draw(self) -> None:
        lines = self._lines()
        self._erase()
        self._turn += 1
        self._write("\n".join(lines).encode())
        self._drawn = len(lines)

    def _lines(self) -> list[str]:
        texts = {}
        for path in sorted(self._file.parent.glob("[!.]*")):
            with contextlib.suppress(OSError):  # the stage has just ended
                texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in {*texts, self._file.name}}
        if len(texts) > 1:
            texts.pop(self._file.name, None)
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(self._terminal).columns
            mark = _SPINNER[self._turn % len(_SPINNER)]
            names = sorted(texts, key=lambda name: self._since[name])
            return [f"{mark} {name} {clock(now - self._since[name])}  {texts[name]}"[: columns - 1] for name in names]
        return []

    def _erase(self) -> None:
        if self._drawn:
            up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
            self._write(f"\r{up}\x1b[J".encode())
        self._drawn = 0

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; the work goes on
            while data:
                data = data[os.write(self._terminal, data) :]
