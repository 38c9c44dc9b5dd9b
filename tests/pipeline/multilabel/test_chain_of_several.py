"""From a CSV with `a|b` in its label column to a tested model, its report and its predictions, through the stages."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import several_classes
import small_benchmark
from sklearn.metrics import average_precision_score

from pipeline import api, layout
from pipeline.data import manifest
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import labelled_clips
from pipeline.evaluation.files import read_predictions
from pipeline.model_folder import describe
from pipeline.multilabel.precision import mean_chance_precision
from pipeline.params import Params
from pipeline.preflight import chain_scope, problems
from pipeline.report import collect
from pipeline.serving.limits import ServingLimits
from pipeline.serving.service import Asked, Service
from pipeline.stages import baseline, download, evaluate, finetune, preprocess, report

VIDEOS = 70


def parameters(folder: Path) -> Params:
    data = {
        "dataset": "folder", "split": 1, "classes": 3, "frame_step": 1,
        "source": {"kind": "folder", "path": str(folder), "annotations": "videos.csv"},
    }  # fmt: skip
    return small_benchmark.params(
        benchmarks={"small": {"data": data, "finetune": {}, "evaluate": {}}},
        ingest__min_frames=8,
        ingest__workers=1,
        preprocess__store="raw",
        pretrain__size="tiny",
        finetune__init="scratch",
        finetune__epochs=24,
        finetune__warmup_epochs=2.0,
        finetune__batch=6,
        finetune__repeated_augmentation=1,
        finetune__mixup=0.2,
        finetune__cutmix=0.0,
        finetune__label_smoothing=0.1,
        finetune__flip=0.0,
        finetune__crop_scale=[0.8, 1.0],
        finetune__validate_split="val",
        finetune__validate_every_epochs=8,
        finetune__select="best",
        finetune__balance="weights",
        evaluate__split="test",
        evaluate__segments=1,
        evaluate__crops=1,
        evaluate__bootstrap=300,
        evaluate__budgets=[0.5],
        compute__ranks=1,
        compute__device="cpu",
        compute__loader_workers=0,
    )


@pytest.mark.slow
def test_a_table_of_several_classes_becomes_a_tested_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    own = tmp_path / "own"
    own.mkdir()
    several_classes.write_set(own, VIDEOS)
    params = parameters(own)
    assert [p for p in problems(chain_scope(params)) if p.key.startswith("benchmarks")] == []

    download.run(params, "small")
    table = manifest.load(layout.manifest_dir("small") / "manifest.parquet", [*manifest.SCHEMA, manifest.LABELS])
    shown = {f"v{n:03d}": sorted(names) for n, names in enumerate(several_classes.sets(VIDEOS))}
    for row in table.to_pylist():
        assert row["label_name"].split("|") == shown[row["video_id"]]
        assert [several_classes.CLASSES[number] for number in row["labels"]] == shown[row["video_id"]]
    preprocess.run(params, "small")
    assert len(Cache.open(layout.cache_dir("small")).label_sets or ()) == VIDEOS
    clips = labelled_clips(params, "small", "train", random=True)
    assert clips.label_sets()[4] == (0, 1, 2)  # v006: of five videos the last two are held out

    trivial = {row["model"]: row for row in baseline.run(params, "small")}
    tests = [set(names) for n, names in enumerate(several_classes.sets(VIDEOS)) if n % 5 == 4]
    truth = np.array([[name in names for name in several_classes.CLASSES] for names in tests])
    assert trivial["majority"]["metric"] == "mAP"
    assert trivial["majority"]["top1"] == pytest.approx(100 * truth.mean(axis=0).mean())
    assert trivial["one frame, logistic regression"]["top1"] > 90  # squares are seen in one frame

    metrics = finetune.run(params, "small")
    assert metrics["val/map"] > 0.9
    assert "val/top1" not in metrics
    history = list(csv.DictReader((layout.output_dir("finetune", "small") / "history.csv").open()))
    assert [float(row["val_map"]) for row in history if row["val_map"]][-1] <= metrics["val/map"]
    assert describe(layout.output_dir("finetune", "small")).multi_label

    scores = evaluate.run(params, "small")
    found = read_predictions(layout.output_dir("evaluate", "small") / "predictions.parquet")
    assert np.array_equal(found["label"], truth)
    given = found["probabilities"]
    assert not np.allclose(given.sum(axis=1), 1)  # sigmoids, not a softmax
    by_class = [average_precision_score(truth[:, c], given[:, c]) for c in range(3)]
    assert scores["eval/map"] == pytest.approx(np.mean(by_class))
    assert scores["eval/map_ci_low"] <= scores["eval/map"] <= scores["eval/map_ci_high"]
    assert scores["eval/map"] > truth.mean() + 0.25
    rows = list(csv.reader((layout.output_dir("evaluate", "small") / "per_class.csv").open()))
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(by_class, abs=1e-6)
    assert [int(row[1]) for row in rows[1:]] == truth.sum(axis=0).tolist()
    said = pq.read_table(layout.output_dir("evaluate", "small") / "predictions.parquet")["predicted"].to_pylist()
    assert said == [np.flatnonzero(p >= 0.5).tolist() for p in given]
    headline = json.loads(layout.metrics_file("evaluate", "small").read_text())
    assert headline["eval/map"] == scores["eval/map"]

    report.run(params, None)
    (row,) = collect.collect(params)["results"]
    assert (row["metric"], row["top1"]) == ("mAP", pytest.approx(100 * scores["eval/map"]))
    assert row["chance"] == pytest.approx(100 * mean_chance_precision(truth))
    page = (layout.output_dir("report") / "benchmark-small.html").read_text()
    assert "Average precision by class" in page
    assert "mAP" in (layout.output_dir("report") / "report.html").read_text()

    folder = str(layout.output_dir("finetune", "small"))
    answers = api.predict([own / "v004.mp4", own / "v009.mp4"], folder)
    assert answers.several
    assert answers.probabilities == pytest.approx(given[:2], abs=0.02)  # from the file, not from JPEGs
    assert [set(one.labels) for one in answers.predictions] == [
        {several_classes.CLASSES[c] for c in np.flatnonzero(p >= 0.5)} for p in answers.probabilities
    ]
    service = Service(folder, ServingLimits(folder=own))
    (served,) = service.answer([Asked(path="v004.mp4")])
    service.close()
    assert list(served.probabilities.values()) == pytest.approx(answers.probabilities[0].tolist(), abs=1e-6)
    assert served.labels == list(answers.predictions[0].labels)
