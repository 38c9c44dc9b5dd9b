"""What a training tells while it runs: rows of a CSV file, records for tracking, a line on the terminal."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from pipeline.system import files
from pipeline.system.progress import Line, clock, wanted
from pipeline.system.text import visible
from pipeline.tracking import names

COLUMNS = ("step", "epoch", *names.HISTORY_COLUMNS.values(), "seconds")
#: How long rows may wait in memory. Before each checkpoint all are written.
FLUSH_SECONDS = 2.0


class MetricSink(Protocol):
    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...


class NoSink:
    """Tracking turned off, and the ranks other than 0."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        return

    def tags(self, values: Mapping[str, object]) -> None:
        return


class Journal:
    """The history of a training, appended to `path` on rank 0; elsewhere (`path` None) nothing is written.

    Args:
        every: the sink gets the training loss at every so many steps; the CSV holds each step.
        several: videos have several classes each, and their validation's score has a column of its own.
    """

    def __init__(self, path: Path | None, sink: MetricSink, every: int = 1, several: bool = False) -> None:
        self._columns = (*COLUMNS, *names.SEVERAL_COLUMNS.values()) if several else COLUMNS
        self.path = path
        self.sink = sink
        self.every = every
        self._rows: list[dict[str, float]] = []
        self._flushed = time.monotonic()
        #: The newest validation's.
        self.scores: dict[str, float] = {}
        self._parts: dict[str, float] = {}
        self._counted = 0

    def step(
        self,
        step: int,
        epoch: int,
        loss: float,
        lr: float,
        grad_norm: float,
        seconds: float,
        parts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Note one optimizer step, counted from 1.

        `parts`: [s] of loader, forward and so on. The sink gets their means over the steps since its last record, as
        `names.part_seconds`.
        """
        metrics = {names.TRAIN_LOSS: loss, names.TRAIN_LR: lr, names.TRAIN_GRAD_NORM: grad_norm}
        self._add(step, epoch, metrics, seconds=round(seconds, 5))
        for part, value in {**parts, "whole": seconds}.items():
            self._parts[part] = self._parts.get(part, 0.0) + value
        self._counted += 1
        if step % self.every == 0:
            means = {names.part_seconds(part): total / self._counted for part, total in self._parts.items()}
            self.sink.metrics({**metrics, **means}, step)
            self._parts, self._counted = {}, 0

    def validation(self, step: int, epoch: int, scores: dict[str, float]) -> None:
        """Scores under their tracked names, after optimizer step `step`."""
        self._add(step, epoch, scores)
        self.scores = scores
        self.sink.metrics(scores, step)

    def _add(self, step: int, epoch: int, metrics: Mapping[str, float], **more: float) -> None:
        if self.path is None:
            return
        known = {name: column for name, column in names.COLUMN_OF.items() if column in self._columns}
        columns = {column: metrics[name] for name, column in known.items() if name in metrics}
        self._rows.append({"step": step, "epoch": epoch, **columns, **more})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, to the disk itself."""
        self._flushed = time.monotonic()
        if self.path is None or not self._rows:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(self._rows)
            files.flush(file)
        self._rows = []

    def rewind(self, step: int, validated: int | None = None) -> None:
        """Forget rows after `step`, and scores after step `validated`: they will be written again."""
        self._rows = [row for row in self._rows if row["step"] <= step]
        if self.path is None or not self.path.exists():
            return
        self.flush()
        with self.path.open(newline="", encoding="utf-8") as file:
            # A crash may have torn the last line: it has too few fields and goes as well.
            kept = [row for row in csv.DictReader(file) if row["seconds"] is not None and _up_to(row["step"], step)]
        if validated is not None:
            kept = [row for row in kept if row["loss"] or _up_to(row["step"], validated)]
        with files.atomic_path(self.path) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)


def _up_to(text: str, step: int) -> bool:
    return text.isdigit() and int(text) <= step


class Progress:
    """The line of a training: `label step 120/240  loss 0.532  12.3 steps/s  0:10 left`.

    Rank 0's alone: that of the others is silent.
    """

    def __init__(self, label: str, main: bool) -> None:
        self.label = label
        self._line = Line(label) if main else None
        self._began: tuple[float, int] | None = None
        self._note = ""

    def step(self, step: int, total: int, loss: float) -> None:
        if self._line is None:
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
        if (score := names.validation_score(scores)) is not None:
            self._note = f"  val {100 * score:.1f} % (epoch {epoch + 1})"

    def remark(self, text: str) -> None:
        """Keep what the monitor says at the end of the line."""
        self._note = f"  {text}"

    def say(self, text: str) -> None:
        """Whole lines, below the bar, where somebody looks."""
        if self._line is not None and wanted():
            self._line.close()
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Take an unfinished line away."""
        if self._line is not None:
            self._line.close()
