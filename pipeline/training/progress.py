"""A progress line on the terminal for rank 0, and nothing anywhere else."""

from __future__ import annotations

import os
import sys
import time

from pipeline.text import visible


class Progress:
    """`label  step 120/240  loss 0.532  12.3 steps/s  0:10 left`, redrawn in place at most five times a
    second.

    Silent where `enabled` is false; :func:`wanted` says when it should be.
    """

    def __init__(self, label: str, enabled: bool) -> None:
        self.label = label
        self.enabled = enabled
        self._drawn = 0.0
        self._began: tuple[float, int] | None = None
        self._note = ""

    def step(self, step: int, total: int, loss: float) -> None:
        if not self.enabled:
            return
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        if now - self._drawn < 0.2 and step < total:
            return
        self._drawn = now
        rate = (step - self._began[1]) / max(now - self._began[0], 1e-9)
        left = f"{int((total - step) / rate) // 60}:{int((total - step) / rate) % 60:02d} left" if rate else ""
        filled = round(24 * step / max(total, 1))
        bar = "━" * filled + "─" * (24 - filled)
        line = visible(f"{self.label} {bar} {step}/{total}  loss {loss:.4f}  {rate:.1f} steps/s  {left}{self._note}")
        sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if step >= total else ""))
        sys.stderr.flush()

    def note(self, epoch: int, scores: dict[str, float]) -> None:
        """Keep the newest validation score at the end of the line."""
        if "val_top1" in scores:
            self._note = f"  val {100 * scores['val_top1']:.1f} % (epoch {epoch + 1})"

    def say(self, text: str) -> None:
        """Whole lines, below the bar."""
        if self.enabled:
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave an unfinished line behind."""
        if self.enabled and self._drawn:
            sys.stderr.write("\n")


def wanted() -> bool:
    """Whether a person is watching: stderr is a terminal and EVEREST_QUIET is not set."""
    return sys.stderr.isatty() and not os.environ.get("EVEREST_QUIET")
