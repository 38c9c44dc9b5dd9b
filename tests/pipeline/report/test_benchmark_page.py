"""The page of one benchmark: what it says of known predictions, and that it stays small for 40,000 videos."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import layout
from pipeline.evaluation import files
from pipeline.evaluation.benchmark import TestSet
from pipeline.evaluation.inference import Answer
from pipeline.report.benchmark import class_recall, findings
from pipeline.report.benchmark_page import page, write_benchmark_pages
from pipeline.report.sentences import BenchmarkResult

RESULT: BenchmarkResult = {
    "benchmark": "small", "strategy": "everest", "keep_ratio": 0.6, "top1": 75.0, "top1_ci_low": 70.0,
    "top1_ci_high": 80.0, "top5": None, "class_mean": 70.0, "calibration_error": 0.1, "chance": 25.0, "trivial": None,
    "videos_ok": 8, "videos_total": 8, "views": 2, "gmacs_per_clip": None, "peak_memory_gib": None,
    "clips_per_second": None, "wall_seconds": None,
}  # fmt: skip


def evaluated(probability_VC: np.ndarray, label_V: np.ndarray, names: list[str], unread: int = 0) -> None:
    """The files of an evaluation with these answers; the first `unread` videos could not be read."""
    ids = [f"<v>{number:05d}" for number in range(len(label_V))]
    tests = TestSet(ids, ids, label_V.tolist(), {})
    answers = [Answer(None, "truncated") if n < unread else Answer(p) for n, p in enumerate(probability_VC)]
    folder = layout.output_dir("evaluate", "small")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_predictions(folder / "predictions.parquet", tests, answers)
    files.write_confusion(folder / "confusion.csv", folder / "per_class.csv", tests, answers, names)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_page_names_errors_hits_and_the_class_that_is_found_least() -> None:
    probability = np.array([[0.5, 0.5, 0], [0.9, 0.1, 0], [0.95, 0.05, 0], [0.3, 0.7, 0], [0.6, 0.3, 0.1]])
    evaluated(probability, np.array([2, 0, 1, 1, 0]), ["up", "down & out", "never seen"], unread=1)
    summary = findings("small")
    assert summary is not None
    assert (summary.videos, summary.wrong) == (4, 1)
    assert [row.name for row in summary.recall] == ["down & out", "up"], "no recall without a readable test video"
    assert (summary.recall[0].recall, summary.recall[0].mistaken, summary.recall[0].mistakes) == (0.5, "up", 1)
    text = page(summary, RESULT)
    assert "1 of 4 test videos are answered wrongly" in text
    assert "The class found least often is down &amp; out: 50 % of 2 videos" in text
    assert "said up, 95.0 % sure" in text
    assert "&lt;v&gt;00002" in text
    assert text.index("60.0 % sure") < text.index("70.0 % sure") < text.index("90.0 % sure")
    assert "1 classes have no test video" in text
    assert not re.search(r'(src|href)="https?:', text)


def test_without_predictions_there_is_no_page_and_without_errors_no_list_of_them() -> None:
    assert write_benchmark_pages([RESULT], Path("report")) == []
    evaluated(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), ["a", "b"])
    (link,) = write_benchmark_pages([RESULT], Path("report"))
    text = (Path("report") / link.file).read_text()
    assert "0 of 2 test videos" in text
    assert "Most confident errors" not in text
    assert "too modest" in text


def test_of_equal_recall_the_class_with_more_videos_comes_first() -> None:
    rows = class_recall(["a", "b", "c"], np.array([[1, 1, 0], [2, 2, 0], [0, 0, 0]]))
    assert [(row.name, row.videos) for row in rows] == [("b", 4), ("a", 2)]


def test_40_000_videos_of_400_classes_make_a_page_of_a_few_hundred_kib_within_seconds() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 400, 40_000)
    probability = random.random((40_000, 400), dtype=np.float32)
    probability[np.arange(40_000), label] += 0.4 * random.random(40_000, dtype=np.float32)
    probability /= probability.sum(axis=1, keepdims=True)
    evaluated(probability, label, [f"class {number}" for number in range(400)])
    began = time.perf_counter()
    summary = findings("small")
    assert summary is not None
    text = page(summary, RESULT)
    assert time.perf_counter() - began < 30
    assert len(text) < 400_000
    assert text.count('class="card"') == 24
    assert len(summary.recall) == 400
