"""Comparisons and repetitions of videos with several classes go by mAP; those with one by top-1, as they did."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_benchmark

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.benchmark import TestSet
from pipeline.evaluation.files import read_tests, write_predictions
from pipeline.evaluation.inference import Answer
from pipeline.evaluation.metrics import strategy_difference
from pipeline.multilabel.precision import mean_average_precision
from pipeline.report import repetition
from pipeline.report.experiment import score_columns
from pipeline.report.sentences import Difference, difference, left_out_sentences
from pipeline.tracking.headline import headline, words

VIDEOS = 60


def training(
    folder: Path, seed: int, skill: float, several: bool, ids: str = "v", missed: frozenset[int] = frozenset()
) -> tuple[Path, np.ndarray, np.ndarray]:
    """Predictions of one training in a folder, which could not score the `missed`; its probabilities and the truth."""
    truth = np.random.default_rng(7).random((VIDEOS, 3)) < 0.4
    truth[np.arange(VIDEOS), np.arange(VIDEOS) % 3] = True
    labels = (np.arange(VIDEOS) % 3).tolist()
    given = np.random.default_rng(seed).random((VIDEOS, 3)).astype(np.float32) + np.float32(skill) * truth
    names = [f"{ids}{number}" for number in range(VIDEOS)]
    tests = TestSet(names, names, labels, {}, truth if several else None)
    path = folder / layout.output_dir("evaluate", "small") / "predictions.parquet"
    path.parent.mkdir(parents=True)
    answers = [Answer(None, "damaged") if n in missed else Answer(row / 2) for n, row in enumerate(given)]
    write_predictions(path, tests, answers)
    return folder, given / 2, truth if several else np.asarray(labels)


def test_trainings_of_several_classes_are_told_apart_by_their_map(tmp_path: Path) -> None:
    good, poor = (
        [training(tmp_path / f"{name}{seed}", seed, skill, several=True) for seed in (1, 2)]
        for name, skill in (("good", 0.8), ("poor", 0.0))
    )
    sides = {name: [folder for folder, _, _ in side] for name, side in (("good", good), ("poor", poor))}
    a, b = read_tests(sides, "small").values()
    assert (a.several, a.trainings, a.videos) == (True, 2, VIDEOS)
    assert a.scores() == pytest.approx([mean_average_precision(given, truth) for _, given, truth in good])
    mean, (low, high) = a.minus(b, draws=200)
    assert mean == pytest.approx(np.mean(a.scores()) - np.mean(b.scores()))
    assert 0 < low < mean < high
    low, high = a.interval(200)
    assert low < np.mean(a.scores()) < high
    row: Difference = {
        "benchmark": "small", "a": "everest", "b": "tube", "difference": 100 * mean, "low": 1.0, "high": 2.0,
        "seeds": 2, "metric": "mAP",
    }  # fmt: skip
    assert "points mAP" in difference(row, "multiply-adds")


def test_trainings_of_one_class_are_compared_as_before_and_other_videos_are_refused(tmp_path: Path) -> None:
    folders = [training(tmp_path / str(seed), seed, 0.5, several=False) for seed in (1, 2)]
    tests = read_tests({"tube": [folder for folder, _, _ in folders]}, "small")["tube"]
    hits = np.stack([given.argmax(axis=1) == label for _, given, label in folders])
    assert tests.scores() == pytest.approx(hits.mean(axis=1).tolist())
    assert tests.minus(tests, 50) == strategy_difference(hits, hits, 50)
    other, _, _ = training(tmp_path / "other", 3, 0.5, several=False, ids="w")
    with pytest.raises(EverestError, match="other videos than the other trainings"):
        read_tests({"tube": [folders[0][0], other]}, "small")


@pytest.mark.parametrize("several", [False, True])
def test_strategies_are_compared_video_by_video_on_those_that_every_training_scored(
    tmp_path: Path, several: bool
) -> None:
    made = {
        name: training(tmp_path / name, 1, 9.0, several, missed=frozenset(missed))
        for name, missed in (("first", {0}), ("last", {VIDEOS - 1}), ("two", {0, 7}), ("none", set()))
    }
    first, last, two, none = (folder for folder, _, _ in made.values())
    a, b = read_tests({"everest": [first, two], "tube": [last, none]}, "small").values()
    assert (a.videos, a.left_out, b.left_out) == (VIDEOS - 3, 3, 3)
    kept = [row for row in range(VIDEOS) if row not in (0, 7, VIDEOS - 1)]
    _, given, truth = made["none"]
    for side in (a, b):
        assert np.array_equal(side.labels, truth[kept])
        assert all(np.allclose(one, given[kept]) for one in side.probabilities)
    mean, (low, high) = a.minus(b, draws=50)
    assert mean == 0, "the same answers, so no difference"
    assert low <= 0 <= high
    rows = [{"benchmark": "small", "videos": side.videos, "left_out": side.left_out} for side in (a, b)]
    (sentence,) = left_out_sentences(rows)  # type: ignore[arg-type]
    assert sentence.startswith("small: 3 of 60 test videos could not be scored by every training")
    assert read_tests({"tube": [none]}, "small")["tube"].left_out == 0


def test_trainings_that_scored_no_video_in_common_are_not_compared(tmp_path: Path) -> None:
    half, every = frozenset(range(30)), frozenset(range(VIDEOS))
    low, _, _ = training(tmp_path / "low", 1, 0.5, several=False, missed=half)
    high, _, _ = training(tmp_path / "high", 1, 0.5, several=False, missed=every - half)
    with pytest.raises(EverestError, match="none of 60 test videos was scored by each of 2 trainings.*Cure: "):
        read_tests({"everest": [low], "tube": [high]}, "small")


def test_a_repetition_and_the_headline_have_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = []
    metrics = {"eval/map_ci_low": 0.5, "eval/map_ci_high": 0.7, "eval/videos_ok": 9, "eval/videos_total": 10}
    for seed, score in enumerate((0.6, 0.64)):
        path = tmp_path / str(seed) / layout.results_file("evaluate", "small")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**metrics, "eval/map": score}))
        cells.append((0, seed, tmp_path / str(seed)))
    summary = repetition.summarise(small_benchmark.params(), cells)
    assert (summary["results"][0]["mean"], summary["results"][0]["metric"]) == (pytest.approx(62), "mAP")
    assert summary["sentences"][0].startswith("small: mAP 62.0 %")
    repetition.write_report(summary, tmp_path / "report")
    assert "mAP %" in (tmp_path / "report" / "report.md").read_text()
    kept = headline({**metrics, "eval/map": 0.6, "eval/f1": 0.5})
    assert list(kept) == ["eval/map", "eval/map_ci_low", "eval/map_ci_high", "eval/videos_ok", "eval/videos_total"]
    layout.metrics_file("evaluate", "small").parent.mkdir(parents=True)
    layout.metrics_file("evaluate", "small").write_text(json.dumps(kept))
    assert words("evaluate", "small") == "mAP 60.0 % (95 % interval 50.0 to 70.0), 9 of 10 videos"


def test_a_benchmark_without_official_splits_has_none_beside_one_that_has_them(tmp_path: Path) -> None:
    cells = []
    for split, seed in ((1, 0), (2, 0), (3, 0), (1, 5), (2, 5), (3, 5)):
        folder = tmp_path / f"{split}-{seed}"
        cells.append((split, seed, folder))
        for name in ("hmdb51", "ssv2"):
            path = folder / layout.results_file("evaluate", name)
            path.parent.mkdir(parents=True)
            ends = {"eval/top1_ci_low": 0.4, "eval/top1_ci_high": 0.9, "eval/videos_ok": 9, "eval/videos_total": 9}
            path.write_text(json.dumps({**ends, "eval/top1": 0.5 + split / 100 + seed / 50}))
    data = {name: SimpleNamespace(data=SimpleNamespace(dataset=name)) for name in ("hmdb51", "ssv2")}
    params = SimpleNamespace(benchmarks=list(data), benchmark=data.__getitem__, recipe="k400")
    summary = repetition.summarise(params, cells)  # type: ignore[arg-type]
    assert [(row["splits"], row["seeds"]) for row in summary["results"]] == [(3, 2), (0, 2)]
    assert [row["between_splits"] is None for row in summary["results"]] == [False, True]
    assert [row["mean"] for row in summary["results"]] == pytest.approx([57, 57])
    assert {row["split"] for row in summary["scores"] if row["benchmark"] == "ssv2"} == {None}
    assert "ssv2: top-1 57.0 % over the data's own split with 2 seed(s)" in summary["sentences"][1]


def test_a_table_of_both_kinds_says_which_each_score_is() -> None:
    top1 = {"top1": 50.0, "top1_ci_low": 40.0, "top1_ci_high": 60.0}
    rows = [top1, {**top1, "metric": "mAP"}]
    assert [next(iter(score_columns([row]))) for row in rows] == ["top-1 %", "mAP %"]  # type: ignore[list-item]
    both = score_columns(rows)  # type: ignore[arg-type]
    assert [both["top-1 or mAP %"](row) for row in rows] == ["50.0 top-1", "50.0 mAP"]  # type: ignore[arg-type]
