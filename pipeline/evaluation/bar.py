"""A progress bar over videos, for a person at a terminal."""

from __future__ import annotations


class Bar:
    """Call it with (done, total); it vanishes when all are done."""

    def __init__(self, label: str) -> None:
        from pipeline.terminal import bar
        from pipeline.text import printable

        self._bar = bar()
        self._task = self._bar.add_task(printable(label), total=None)

    def __call__(self, done: int, total: int) -> None:
        if done < total:
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self._bar.stop()
