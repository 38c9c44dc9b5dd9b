"""What one benchmark's test says video by video and class by class. Reads files, draws nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import layout
from pipeline.evaluation.budgets import FILE as BUDGETS
from pipeline.evaluation.budgets import NoSweep, Sweep, read_sweep
from pipeline.evaluation.calibration import Bin, negative_log_likelihood, reliability, tempered
from pipeline.evaluation.clips import clip_files
from pipeline.evaluation.examples import Example, confident_errors, doubtful_hits, least_seen, surest_wrong
from pipeline.evaluation.files import read_confusion, read_predictions
from pipeline.evaluation.metrics import Interval, calibration_error, decisions, wilson
from pipeline.evaluation.temperature import FILE as TEMPERATURE
from pipeline.evaluation.temperature import Temperature, read_temperature
from pipeline.multilabel.labels import Truth
from pipeline.multilabel.precision import average_precision, chance_precision, precision_interval
from pipeline.system.csv_files import read_rows

#: Draws of the bootstrap for the interval of one class.
DRAWS = 500


@dataclass(frozen=True)
class ClassRecall:
    """One class: its test videos, the share that was found with its 95 % interval, and what the others were taken for.

    Attributes:
        mistaken, mistakes: the class that its videos were most often taken for, and how often; "" and 0 without errors.
    """

    name: str
    videos: int
    recall: float
    interval: Interval
    mistaken: str
    mistakes: int


@dataclass(frozen=True)
class ClassPrecision:
    """One class of videos with several: its test videos, and its average precision with its 95 % interval.

    Attributes:
        chance: average precision that a random ranking is expected to have.
    """

    name: str
    videos: int
    precision: float
    interval: Interval
    chance: float


@dataclass(frozen=True)
class Calibration:
    """Whether confidence is accuracy, on the test videos."""

    bins: list[Bin]
    error: float
    nll: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Findings:
    """What a benchmark's page shows; `recall` by rising recall, without classes that have no test video.

    Attributes:
        wrong: videos whose most probable class is none of theirs.
        errors, hits: examples; where videos have several classes the surest wrong class of a video, and the own class
            that is given least.
        precision: in the place of `recall` where videos have several classes, by rising average precision; else [].
        clips: animated pictures of errors and hits by video.
        temperature: fitted on validation videos, or why not; `calibrated` are the same test videos at it.
        sweep: the model at other token budgets, or why not; None in results of before it was known.
    """

    benchmark: str
    videos: int
    wrong: int
    classes: list[str]
    errors: list[Example]
    hits: list[Example]
    clips: dict[str, Path]
    recall: list[ClassRecall]
    calibration: Calibration
    temperature: Temperature | None
    calibrated: Calibration | None
    sweep: Sweep | NoSweep | None
    precision: list[ClassPrecision] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether videos have several classes each."""
        return bool(self.precision)


def findings(benchmark: str) -> Findings | None:
    """What the predictions of a benchmark say; None where it has none, as in results that were carried over alone.

    Raises:
        DamagedError: the predictions are not those that were written.
    """
    folder = layout.output_dir("evaluate", benchmark)
    if not (folder / "predictions.parquet").exists():
        return None
    table = read_predictions(folder / "predictions.parquet")
    ids, probability_VC, label_V = table["video_id"], table["probabilities"], table["label"]
    temperature = read_temperature(folder / TEMPERATURE)
    value = temperature.value if temperature else None
    if label_V.ndim == 2:
        classes = [row[0] for row in read_rows(folder / "per_class.csv")[1:]]
        pairs_N2, truth_N = decisions(probability_VC), label_V.reshape(-1).astype(np.int64)
        return Findings(
            benchmark,
            len(label_V),
            int((~np.take_along_axis(label_V, probability_VC.argmax(axis=1)[:, None], axis=1)).sum()),
            classes,
            surest_wrong(ids, probability_VC, label_V),
            least_seen(ids, probability_VC, label_V),
            clip_files(folder / "clips"),
            [],
            calibration(pairs_N2, truth_N),
            temperature,
            calibration(tempered(pairs_N2, value), truth_N) if value else None,
            read_sweep(folder / BUDGETS),
            class_precision(classes, probability_VC, label_V),
        )
    classes, counts_CC = read_confusion(folder / "confusion.csv")
    return Findings(
        benchmark,
        len(label_V),
        int(counts_CC.sum() - counts_CC.trace()),
        classes,
        confident_errors(ids, probability_VC, label_V),
        doubtful_hits(ids, probability_VC, label_V),
        clip_files(folder / "clips"),
        class_recall(classes, counts_CC),
        calibration(probability_VC, label_V),
        temperature,
        calibration(tempered(probability_VC, value), label_V) if value else None,
        read_sweep(folder / BUDGETS),
    )


def class_recall(names: list[str], counts_CC: np.ndarray) -> list[ClassRecall]:
    """Each class that has test videos, lowest recall first; of equal ones the one with more videos."""
    rows = []
    for number, (name, counts_C) in enumerate(zip(names, counts_CC, strict=True)):
        videos, right = int(counts_C.sum()), int(counts_C[number])
        if videos:
            others_C = np.where(np.arange(len(names)) == number, 0, counts_C)
            most = int(others_C.argmax())
            mistakes = int(others_C[most])
            mistaken = names[most] if mistakes else ""
            rows.append(ClassRecall(name, videos, right / videos, wilson(right, videos), mistaken, mistakes))
    return sorted(rows, key=lambda row: (row.recall, -row.videos))


def class_precision(names: list[str], probability_VC: np.ndarray, truth_VC: Truth) -> list[ClassPrecision]:
    """Each class that a test video has, lowest average precision first."""
    rows, chance_C = [], chance_precision(truth_VC)
    for number, (name, value) in enumerate(zip(names, average_precision(probability_VC, truth_VC), strict=True)):
        own_VC = slice(number, number + 1)
        if truth_VC[:, number].any():
            interval = precision_interval(probability_VC[:, own_VC], truth_VC[:, own_VC], DRAWS)
            videos, chance = int(truth_VC[:, number].sum()), float(chance_C[number])
            rows.append(ClassPrecision(name, videos, float(value), Interval(*interval), chance))
    return sorted(rows, key=lambda row: (row.precision, -row.videos))


def calibration(probability_VC: np.ndarray, label_V: np.ndarray) -> Calibration:
    """Reliability of some probabilities."""
    return Calibration(
        reliability(probability_VC, label_V),
        calibration_error(probability_VC, label_V),
        negative_log_likelihood(probability_VC, label_V),
        float(probability_VC.max(axis=1).mean(dtype=np.float64)),
        float((probability_VC.argmax(axis=1) == label_V).mean()),
    )
