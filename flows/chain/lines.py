"""Lines for people on stderr, and those that a stage's log repeats there."""

from __future__ import annotations

import contextvars
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.system.text import printable

#: Lines of a stage's log that a person waits for: a comparison's trainings (`[1/6] everest, seed 0`), ranks that are
#: gone or start again, alarms of a pre-training's monitor.
TOLD = re.compile(rb"\[\d+/\d+\] |ranks: |(rank 0: )?health: ")


def say(line: str) -> None:
    """One line on stderr, with the time of day."""
    with suppress(OSError):  # whoever read it may have been killed; the work goes on
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {printable(line)}\n")
        sys.stderr.flush()


@contextmanager
def told_lines_of(log: Path, hear: Callable[[str], None] = say) -> Iterator[None]:
    """Repeat what a stage says of its trainings and ranks, as its log grows: `hear` gets each line, in this context."""
    ending = threading.Event()

    def follow() -> None:
        with log.open("rb") as file:
            rest = b""
            while True:
                last = ending.is_set()
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    if TOLD.match(line):
                        hear(line.decode(errors="replace"))
                if last:
                    return
                ending.wait(0.5)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
