"""What the steps of a training told so far: loss, gradient norm, learning rate, in memory, for the rules of health."""

from __future__ import annotations

import csv
import math
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.tracking import names

Values = npt.NDArray[np.float64]


class History:
    """One number a step for each of loss, gradient norm and learning rate; step k is at place k - 1.

    What is no number, as of a refused step, counts as that of the step before; before the first number, as that one.
    """

    def __init__(self) -> None:
        self._loss, self._norm, self._lr = array("d"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._loss)

    def add(self, loss: float, norm: float, lr: float) -> None:
        """One more step."""
        for values, value in ((self._loss, loss), (self._norm, norm), (self._lr, lr)):
            if math.isfinite(value) and values and not math.isfinite(values[-1]):
                values[:] = array("d", [value] * len(values))
            values.append(value if math.isfinite(value) or not values else values[-1])

    def rewind(self, step: int, file: Path | None) -> None:
        """Hold the steps up to `step`: forget later ones; read from a history.csv what another process did."""
        if len(self) < step and file is not None and file.exists():
            self._read(file)
        for values in (self._loss, self._norm, self._lr):
            del values[step:]

    def _read(self, file: Path) -> None:
        column = names.HISTORY_COLUMNS
        self._loss, self._norm, self._lr = array("d"), array("d"), array("d")
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                if row[column[names.TRAIN_LOSS]]:
                    self.add(
                        float(row[column[names.TRAIN_LOSS]]),
                        float(row[column[names.TRAIN_GRAD_NORM]] or math.nan),
                        float(row[column[names.TRAIN_LR]] or math.nan),
                    )

    def losses(self, begin: int = 0, end: int | None = None) -> Values:
        """Of the steps after `begin` up to `end`."""
        return np.asarray(self._loss[max(begin, 0) : end], dtype=np.float64)

    def norms(self, begin: int = 0, end: int | None = None) -> Values:
        """The gradient's norm before clipping, of the steps after `begin` up to `end`."""
        return np.asarray(self._norm[max(begin, 0) : end], dtype=np.float64)
