"""The history of a run: a CSV row per step and per validation, and the tracking spool beside it."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

COLUMNS = ("step", "epoch", "loss", "lr", "grad_norm", "val_loss", "val_top1", "val_top5", "seconds")
#: How long rows may wait in memory. Before each checkpoint all are written.
FLUSH_SECONDS = 2.0


class MetricSink(Protocol):
    def metrics(self, values: dict[str, float], step: int | None = None) -> None: ...


class NoSink:
    """Tracking turned off, and the ranks other than 0."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        return


class Journal:
    """Appends to `path` on rank 0; elsewhere (`path` None) it does nothing.

    Args:
        every: each how many steps the sink hears of the training loss; the CSV holds every step.
    """

    def __init__(self, path: Path | None, sink: MetricSink, every: int = 1) -> None:
        self.path = path
        self.sink = sink
        self.every = every
        self._rows: list[dict[str, float]] = []
        self._flushed = time.monotonic()
        self._scores: dict[str, float] = {}
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
        `step/<part>_seconds`.
        """
        self._add(step=step, epoch=epoch, loss=loss, lr=lr, grad_norm=grad_norm, seconds=round(seconds, 5))
        for part, value in {**parts, "whole": seconds}.items():
            self._parts[part] = self._parts.get(part, 0.0) + value
        self._counted += 1
        if step % self.every == 0:
            means = {f"step/{part}_seconds": total / self._counted for part, total in self._parts.items()}
            self.sink.metrics({"train/loss": loss, "train/lr": lr, "train/grad_norm": grad_norm, **means}, step)
            self._parts, self._counted = {}, 0

    def validation(self, step: int, epoch: int, scores: dict[str, float]) -> None:
        """Scores such as {"val_top1": 0.5} after optimizer step `step`."""
        self._add(step=step, epoch=epoch, **{key: scores[key] for key in scores if key in COLUMNS})
        self._scores = scores
        self.sink.metrics({key.replace("val_", "val/", 1): value for key, value in scores.items()}, step)

    def final_scores(self) -> dict[str, float]:
        """The newest validation's scores as metrics (`val/top1`)."""
        return {key.replace("val_", "val/", 1): value for key, value in self._scores.items()}

    def _add(self, **row: float) -> None:
        if self.path is None:
            return
        self._rows.append(row)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write and fsync what waits."""
        self._flushed = time.monotonic()
        if self.path is None or not self._rows:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(self._rows)
            file.flush()
            os.fsync(file.fileno())
        self._rows = []

    def rewind(self, step: int) -> None:
        """Forget rows after `step`: they will be written again."""
        self._rows = [row for row in self._rows if row["step"] <= step]
        if self.path is None or not self.path.exists():
            return
        self.flush()
        with self.path.open(newline="", encoding="utf-8") as file:
            # A crash may have torn the last line: it has too few fields and goes as well.
            kept = [row for row in csv.DictReader(file) if row["seconds"] is not None and _up_to(row["step"], step)]
        replacement = self.path.with_suffix(".tmp")
        with replacement.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        replacement.replace(self.path)


def _up_to(text: str, step: int) -> bool:
    return text.isdigit() and int(text) <= step
