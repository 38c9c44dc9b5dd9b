"""The line of a training: step, loss, rate and time left, of rank 0 alone."""

from __future__ import annotations

import sys
import time

from pipeline.system.progress import Line, clock
from pipeline.system.text import visible


class Progress:
    """`label step 120/240  loss 0.532  12.3 steps/s  0:10 left`. Silent where `enabled` is false."""

    def __init__(self, label: str, enabled: bool) -> None:
        self.label = label
        self.enabled = enabled
        self._line = Line(label, enabled)
        self._began: tuple[float, int] | None = None
        self._note = ""

    def step(self, step: int, total: int, loss: float) -> None:
        if not self.enabled:
            return
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        rate = (step - self._began[1]) / max(now - self._began[0], 1e-9)
        left = f"{clock((total - step) / rate)} left" if rate else ""
        filled = round(16 * step / max(total, 1))
        bar = "━" * filled + "─" * (16 - filled)
        self._line.show(f"{bar} {step}/{total}  loss {loss:.4f}  {rate:.1f} steps/s  {left}{self._note}", step >= total)

    def note(self, epoch: int, scores: dict[str, float]) -> None:
        """Keep the newest validation score at the end of the line."""
        if "val_top1" in scores:
            self._note = f"  val {100 * scores['val_top1']:.1f} % (epoch {epoch + 1})"

    def say(self, text: str) -> None:
        """Whole lines, below the bar."""
        if self.enabled:
            self._line.close()
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Take an unfinished line away."""
        self._line.close()
