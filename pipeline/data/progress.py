"""Progress bars on standard error: shown to a person at a terminal, silent everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def wanted() -> bool:
    """Whether somebody looks: standard error is a terminal and EVEREST_QUIET is not set."""
    return sys.stderr.isatty() and not os.environ.get("EVEREST_QUIET")


def counter(label: str) -> Callable[[Iterable[Any], int], Iterator[Any]]:
    """A wrapper for an iterable of `total` finished items, which shows count, rate and time left."""

    def wrap(items: Iterable[Any], total: int) -> Iterator[Any]:
        if not wanted():
            yield from items
            return
        from pipeline.terminal import bar
        from pipeline.text import printable

        with bar() as progress:
            yield from progress.track(items, description=printable(label), total=total)

    return wrap


@contextlib.contextmanager
def byte_bar(label: str, total: int | None, files: int) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for parallel downloads of so many files.

    Yields `update(file, bytes_done, bytes_total)`, safe from any thread.
    """
    if not wanted():
        yield lambda _file, _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from pipeline.terminal import bar as drawn
    from pipeline.text import printable

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with drawn(*columns) as bar:
        overall = bar.add_task(printable(f"{label}, 0 of {files} files"), total=total)
        tasks: dict[str, Any] = {}
        done_bytes: dict[str, int] = {}
        whole: set[str] = set()

        def update(file: str, done: int, file_total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(printable(f"  {file[-40:]}"), total=file_total)
            done_bytes[file] = done
            finished = file_total is not None and done >= file_total
            if finished:
                whole.add(file)
            bar.update(tasks[file], completed=done, total=file_total, visible=not finished)
            told = f"{label}, {len(whole)} of {files} files"
            bar.update(overall, completed=sum(done_bytes.values()), description=printable(told))

        yield update
