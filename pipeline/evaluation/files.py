"""The files of an evaluation: one row for each test video, the confusion matrix, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from pipeline import layout
from pipeline.data.manifest import LABELS
from pipeline.errors import EverestError
from pipeline.evaluation.benchmark import TestSet
from pipeline.evaluation.inference import Answer
from pipeline.evaluation.metrics import Interval, confusion, hits, per_class, seeds_interval, strategy_difference
from pipeline.multilabel.labels import THRESHOLD, multi_hot
from pipeline.multilabel.precision import (
    average_precision,
    mean_average_precision,
    precision_difference,
    trainings_interval,
)
from pipeline.system.csv_files import Writer, read_rows
from pipeline.system.sealed import read_table, write_table


def write_predictions(path: Path, tests: TestSet, answers: list[Answer]) -> None:
    """video_id, path, label, predicted (-1: none), probabilities (null: none) and why, in the manifest's order.

    Where videos have several classes, `labels` and `predicted` are lists: all of them, and those from one half on.
    """
    import pyarrow as pa

    given = [answer.probability for answer in answers]
    numbers = pa.list_(pa.int32())
    if tests.truth_VC is None:
        label = {
            "label": pa.array(tests.labels, pa.int32()),
            "predicted": pa.array([-1 if p is None else int(p.argmax()) for p in given], pa.int32()),
        }
    else:
        said = [None if p is None else np.flatnonzero(p >= THRESHOLD).tolist() for p in given]
        label = {
            LABELS: pa.array([np.flatnonzero(row).tolist() for row in tests.truth_VC], numbers),
            "predicted": pa.array(said, numbers),
        }
    table = pa.table(
        {
            "video_id": pa.array(tests.ids, pa.string()),
            "path": pa.array(tests.paths, pa.string()),
            **label,
            "probabilities": pa.array([None if p is None else p.tolist() for p in given], pa.list_(pa.float32())),
            "reason": pa.array([answer.reason for answer in answers], pa.string()),
        }
    )
    write_table(table, path)


class Predictions(TypedDict):
    """The test videos that were read: ids, true classes [V] (of several: which, [V, C]) and probabilities [V, C].

    `unread`: ids of the others.
    """

    video_id: list[str]
    label: np.ndarray
    probabilities: np.ndarray
    unread: list[str]


def read_predictions(path: Path) -> Predictions:
    """Columns of :func:`write_predictions`, of the readable videos only, and which were not.

    Raises:
        DamagedError: the file is not what was written.
    """
    table = read_table(path, f"Cure: `everest evaluate {path.parent.name}` again.")
    unread = table.filter(table["probabilities"].is_null())["video_id"].to_pylist()
    table = table.filter(table["probabilities"].is_valid())
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    probability_VC = np.asarray(flat, dtype=np.float32).reshape(len(table), len(flat) // max(1, len(table)))
    if LABELS in table.column_names:
        label = multi_hot(table[LABELS].to_pylist(), probability_VC.shape[1])
    else:
        label = np.asarray(table["label"].to_numpy(), dtype=np.int64)
    read = table["video_id"].to_pylist()
    return {"video_id": read, "label": label, "probabilities": probability_VC, "unread": unread}


@dataclass(frozen=True)
class Tests:
    """Probabilities [V, C] of trainings on the same videos, and their labels [V]; of several classes which, [V, C].

    `left_out`: test videos beside them that some training could not score.
    """

    __test__ = False  # not a test case, whatever its name suggests

    probabilities: list[np.ndarray]
    labels: np.ndarray
    left_out: int = 0

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


def read_tests(folders: Mapping[str, Sequence[Path]], benchmark: str) -> dict[str, Tests]:
    """The tests of each side's trainings, in these folders, on the videos that every one of them scored.

    Raises:
        EverestError: they are of different videos, or no video is in all of them.
    """
    tables = {
        folder: read_predictions(folder / layout.output_dir("evaluate", benchmark) / "predictions.parquet")
        for side in folders.values()
        for folder in side
    }
    first = next(iter(tables.values()))
    every, common = {*first["video_id"], *first["unread"]}, set(first["video_id"])
    for folder, table in tables.items():
        if {*table["video_id"], *table["unread"]} != every:
            raise EverestError(
                f"{folder}: {benchmark} was evaluated on other videos than the other trainings. "
                "Cure: delete that folder's outputs and metrics, and run the comparison again."
            )
        common &= set(table["video_id"])
    if not common:
        file = layout.output_dir("evaluate", benchmark) / "predictions.parquet"
        raise EverestError(
            f"{benchmark}: none of {len(every)} test videos was scored by each of {len(tables)} trainings, so that "
            f"nothing can be compared. Cure: `reason` in {file} of {', '.join(map(str, tables))} says why."
        )
    order = [video for video in first["video_id"] if video in common]
    rows = {}
    for folder, table in tables.items():
        row_of = {video: row for row, video in enumerate(table["video_id"])}
        rows[folder] = [row_of[video] for video in order]
    label = first["label"][rows[next(iter(tables))]]
    left_out = len(every) - len(common)
    return {
        name: Tests([tables[folder]["probabilities"][rows[folder]] for folder in side], label, left_out)
        for name, side in folders.items()
    }


def write_precision(path: Path, tests: TestSet, answers: list[Answer], names: list[str]) -> None:
    """Videos that have each class, and its average precision, where videos have several classes."""
    _, probability_VC, truth_VC = tests.read(answers)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(["class", "videos", "average_precision"])
        for name, count, value in zip(
            names, truth_VC.sum(axis=0), average_precision(probability_VC, truth_VC), strict=True
        ):
            writer.row([name, int(count), "" if np.isnan(value) else f"{value:.6f}"])


def write_confusion(matrix: Path, classes: Path, tests: TestSet, answers: list[Answer], names: list[str]) -> None:
    """The matrix with class names on both sides (rows true, columns predicted), and accuracy and videos by class."""
    _, probability_VC, label_V = tests.read(answers)
    counts = confusion(probability_VC.argmax(axis=1), label_V, probability_VC.shape[1])
    with matrix.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(["actual", *names])
        writer.rows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
    with classes.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(["class", "videos", "accuracy"])
        for name, row, accuracy in zip(names, counts, per_class(counts), strict=True):
            writer.row([name, int(row.sum()), "" if np.isnan(accuracy) else f"{accuracy:.6f}"])


def read_confusion(path: Path) -> tuple[list[str], np.ndarray]:
    """Class names and counts [C, C] of :func:`write_confusion`."""
    rows = read_rows(path)
    return rows[0][1:], np.asarray([[int(cell) for cell in row[1:]] for row in rows[1:]], dtype=np.int64)
