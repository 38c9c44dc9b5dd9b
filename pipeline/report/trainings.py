"""The tests of several trainings on the same videos: what each reached, and how far they can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.files import read_predictions
from pipeline.evaluation.metrics import Interval, hits, seeds_interval, strategy_difference
from pipeline.multilabel.precision import mean_average_precision, precision_difference, trainings_interval


@dataclass(frozen=True)
class Tests:
    """Probabilities [V, C] of trainings on the same videos, and their labels [V]; of several classes which, [V, C]."""

    __test__ = False  # not a test case, whatever its name suggests

    probabilities: list[np.ndarray]
    labels: np.ndarray

    @property
    def several(self) -> bool:
        """Whether videos have several classes each: scores are then mean average precisions, else top-1."""
        return self.labels.ndim == 2

    @property
    def trainings(self) -> int:
        return len(self.probabilities)

    @property
    def videos(self) -> int:
        return len(self.labels)

    def scores(self) -> list[float]:
        """Of each training, a share."""
        if self.several:
            return [mean_average_precision(one, self.labels) for one in self.probabilities]
        return list(self._hits().mean(axis=1))

    def interval(self, draws: int) -> Interval:
        """95 % interval of the mean score, over videos and trainings."""
        if self.several:
            return Interval(*trainings_interval(self.probabilities, self.labels, draws))
        return seeds_interval(self._hits(), draws)

    def minus(self, other: Tests, draws: int) -> tuple[float, Interval]:
        """Mean score minus that of others on the same videos, and its 95 % interval."""
        if self.several:
            mean, interval = precision_difference(self.probabilities, other.probabilities, self.labels, draws)
            return mean, Interval(*interval)
        return strategy_difference(self._hits(), other._hits(), draws)

    def _hits(self) -> np.ndarray:
        return np.stack([hits(one, self.labels) for one in self.probabilities])


def read_tests(folders: Sequence[Path], benchmark: str) -> Tests:
    """The tests of trainings in these folders.

    Raises:
        EverestError: they are of different videos.
    """
    tables = [read_predictions(f / layout.output_dir("evaluate", benchmark) / "predictions.parquet") for f in folders]
    for folder, table in zip(folders, tables, strict=True):
        if table["video_id"] != tables[0]["video_id"]:
            raise EverestError(
                f"{folder}: {benchmark} was evaluated on other videos than the other trainings. "
                "Cure: delete that folder's outputs and metrics, and run the comparison again."
            )
    return Tests([table["probabilities"] for table in tables], tables[0]["label"])
