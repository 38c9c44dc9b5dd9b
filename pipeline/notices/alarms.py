"""New alarms of a pre-training's monitor are told as they come, from outside of the training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.monitor.record import read_record
from pipeline.notices.send import send, wanted

#: [s] between two looks at the monitor's record.
PERIOD = 5.0


@contextmanager
def alarms_told(work: Path, what: str, period: float = PERIOD) -> Iterator[None]:
    """Within the block, tell each alarm that comes to hold; those that were there before were told before."""
    if not wanted():
        yield
        return
    closing = threading.Event()
    known = _alarms(work).keys()

    def watch() -> None:
        seen = set(known)
        while True:
            last = closing.wait(period)
            for key, sentence in _alarms(work).items():
                if key not in seen:
                    seen.add(key)
                    send("health", f"{what} in {Path.cwd()}: {sentence}")
            if last:
                return

    thread = threading.Thread(target=watch, name="alarms", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()


def _alarms(work: Path) -> dict[tuple[str, int], str]:
    """Rule and step of each alarm that holds -> its sentence."""
    record = read_record(work)
    return {(alarm.rule, alarm.step): alarm.sentence for alarm in record.active} if record else {}
