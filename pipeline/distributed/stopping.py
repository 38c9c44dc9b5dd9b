"""Signals that ask a rank to stop: noted at once, obeyed at the next step boundary by all ranks together."""

from __future__ import annotations

import signal
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers the first stopping signal. Install before anything slow: a signal during imports counts too."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def install(self) -> StopRequest:
        for number in STOPPING:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name
