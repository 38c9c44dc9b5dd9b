"""The evaluation stage on real videos: what it counts, what it refuses to count, on one rank and on two."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_classifier import classifier
from small_training import ready, small_benchmark

import models  # noqa: F401
from models.tokens import IMAGENET_MEAN, IMAGENET_STD
from models.weights import load_model
from pipeline import layout
from pipeline.data import manifest
from pipeline.data.cache.read import Cache
from pipeline.errors import EverestError, InputError
from pipeline.evaluation import choice
from pipeline.evaluation.budgets import NoSweep, Sweep, read_sweep
from pipeline.evaluation.clips import clip_files
from pipeline.evaluation.temperature import Temperature, read_temperature
from pipeline.inference.models import resolve
from pipeline.model_folder import describe
from pipeline.params import Params
from pipeline.params.groups import EvaluateParams
from pipeline.report.benchmark import findings
from pipeline.stages import evaluate, preprocess
from pipeline.system.files import sha256_of
from pipeline.tracking.headline import headline
from pipeline.tracking.store import Store

#: Of `small_benchmark.make()`'s 24 videos every fourth is a test video.
TESTS = 6
MANIFEST = layout.manifest_dir("small") / "manifest.parquet"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(**overrides: Any) -> Params:
    """Videos, cache and a classifier."""
    params = ready(**{"evaluate__bootstrap": 200, "evaluate__batch": 4, **overrides})
    classifier(params)
    return params


def change_manifest(**columns: Any) -> None:
    """Replace columns of the manifest, each by a function of the row."""
    rows = manifest.load(MANIFEST, status=None).to_pylist()
    for row in rows:
        row.update({name: function(row) for name, function in columns.items()})
    manifest.save(manifest.from_rows(rows), MANIFEST)


def predictions() -> list[dict[str, Any]]:
    return pq.read_table(layout.output_dir("evaluate", "small") / "predictions.parquet").to_pylist()


def test_every_score_is_that_of_the_views_worked_out_one_by_one(here: Path) -> None:
    params = prepared(evaluate__segments=2)
    metrics = evaluate.run(params, "small")
    cache = Cache.open(layout.cache_dir("small"))
    model = load_model(layout.output_dir("finetune", "small")).eval()
    right = []
    rows = predictions()
    assert [row["video_id"] for row in rows] == [f"v{n:03d}" for n in range(3, 24, 4)]
    for row in rows:
        number = cache.ids.index(row["video_id"])
        frames = torch.from_numpy(np.array(cache.frames(number, list(range(20))))).permute(0, 3, 1, 2)
        small = F.interpolate(frames, size=(32, 32), mode="bilinear", antialias=True, align_corners=False)
        normal = (small / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
        # Two clips of 8 frames from 20: the first and the last.
        views = torch.stack([normal[0:8], normal[12:20]]).transpose(1, 2)
        with torch.no_grad():
            expected = model(views).softmax(dim=1).mean(dim=0)
        assert row["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert row["predicted"] == int(expected.argmax())
        right.append(row["predicted"] == row["label"] == int(row["video_id"][1:]) % 8)
    assert metrics["eval/top1"] == sum(right) / TESTS
    assert metrics == json.loads(layout.results_file("evaluate", "small").read_text())
    assert headline(metrics) == json.loads(layout.metrics_file("evaluate", "small").read_text())
    table = (layout.output_dir("evaluate", "small") / "confusion.csv").read_text().splitlines()
    assert table[0] == "actual," + ",".join(f"motion {n}" for n in range(8))
    counts = np.array([[int(cell) for cell in line.split(",")[1:]] for line in table[1:]])
    assert counts.sum() == TESTS
    assert counts.trace() == sum(right)
    assert list((layout.output_dir("evaluate", "small") / "pictures").glob("*.png"))
    clips = clip_files(layout.output_dir("evaluate", "small") / "clips")
    assert clips.keys() == {row["video_id"] for row in rows}, "few enough to show all"
    assert {path.name[:3] for path in clips.values()} <= {"err", "hit"}
    with Image.open(clips[rows[0]["video_id"]]) as animation:
        assert (animation.format, getattr(animation, "n_frames", 1), animation.size) == ("WEBP", 8, (260, 128))


def test_the_temperature_is_fitted_on_val_and_kept_with_the_registered_model(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = prepared(recipe="calibrated", evaluate__calibration_videos=4, evaluate__budgets=[])
    before = evaluate.run(params, "small")
    record = read_temperature(layout.output_dir("evaluate", "small") / "temperature.json")
    assert record is not None
    assert (record.value, record.reason) == (None, "the benchmark has no labelled validation videos")
    change_manifest(split=lambda row: "val" if row["video_id"] < "v006" and row["split"] != "test" else row["split"])
    preprocess.run(params, "small")
    few = evaluate._temperature(params, "small")
    assert few.reason == "4 validation videos are too few: 10 are needed"
    monkeypatch.setattr("pipeline.evaluation.temperature.FEWEST", 4)
    after = evaluate.run(params, "small")
    scores = {name for name in before if name.startswith("eval/")}
    assert {name: after[name] for name in scores} == {name: before[name] for name in scores}, "the score stays"
    folder = layout.output_dir("evaluate", "small")
    found = read_temperature(folder / "temperature.json")
    assert found is not None
    assert found.value is not None
    assert found.videos == 4
    assert found.nll_after > 0
    assert found.nll_before > 0
    described = describe(resolve("models:/everest-calibrated-small@candidate")).notes
    assert described["temperature"] == {"value": found.value, "split": "val", "videos": 4}
    assert read_sweep(folder / "budgets.json") == NoSweep("evaluate.budgets is empty")
    shown = findings("small")
    assert shown is not None
    assert shown.calibrated is not None
    assert shown.calibrated.accuracy == shown.calibration.accuracy
    reported = evaluate._temperature(params.model_copy(update={"evaluate": val_reported(params)}), "small")
    assert "the score itself is that of the validation videos" in reported.reason


def test_a_training_of_a_comparison_has_no_sweep_temperature_or_clips_and_the_same_scores(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = prepared(evaluate__budgets=[0.3])
    folder = layout.output_dir("evaluate", "small")
    own = evaluate.run(params, "small")
    assert isinstance(read_sweep(folder / "budgets.json"), Sweep)
    assert clip_files(folder / "clips")
    answers = sha256_of(folder / "predictions.parquet")
    monkeypatch.setenv("EVEREST_COMPARE", "everest-seed0")
    compared = evaluate.run(params, "small")
    assert {name: compared[name] for name in own if name.startswith("eval/")} == {
        name: value for name, value in own.items() if name.startswith("eval/")
    }
    assert sha256_of(folder / "predictions.parquet") == answers
    assert read_sweep(folder / "budgets.json") == NoSweep(evaluate.IN_A_SERIES)
    assert read_temperature(folder / "temperature.json") == Temperature(reason=evaluate.IN_A_SERIES)
    assert not clip_files(folder / "clips")


def val_reported(params: Params) -> EvaluateParams:
    return params.evaluate.model_copy(update={"split": "val"})


def test_a_bad_test_video_is_counted_and_never_replaced(here: Path) -> None:
    params = prepared(evaluate__failure_budget=0.2)
    whole = evaluate.run(params, "small")
    before = {row["video_id"]: row["probabilities"] for row in predictions()}
    change_manifest(
        status=lambda row: "quarantined" if row["video_id"] == "v007" else "ok",
        reason=lambda row: "truncated" if row["video_id"] == "v007" else "",
    )
    preprocess.run(params, "small")
    metrics = evaluate.run(params, "small")
    rows = predictions()
    assert (whole["eval/videos_ok"], metrics["eval/videos_ok"], metrics["eval/videos_total"]) == (TESTS, 5, TESTS)
    bad = next(row for row in rows if row["video_id"] == "v007")
    assert (bad["probabilities"], bad["predicted"], bad["reason"]) == (None, -1, "truncated")
    read = [row for row in rows if row["video_id"] != "v007"]
    assert {row["video_id"]: row["probabilities"] for row in read} == {k: v for k, v in before.items() if k != "v007"}
    assert metrics["eval/top1"] == sum(row["predicted"] == row["label"] for row in read) / 5


def test_too_many_bad_videos_fail_the_stage_and_leave_the_last_result(here: Path) -> None:
    params = prepared(evaluate__failure_budget=0.2)
    evaluate.run(params, "small")
    before = layout.metrics_file("evaluate", "small").read_bytes(), predictions()
    change_manifest(
        status=lambda row: "quarantined" if row["video_id"] in ("v007", "v011") else "ok",
        reason=lambda row: "undecodable" if row["video_id"] in ("v007", "v011") else "",
    )
    preprocess.run(params, "small")
    with pytest.raises(EverestError, match=r"2 of 6 test videos cannot be read.*0\.2 .*v007: undecodable"):
        evaluate.run(params, "small")
    assert (layout.metrics_file("evaluate", "small").read_bytes(), predictions()) == before


def test_equal_file_names_in_different_folders_are_different_videos(here: Path) -> None:
    params = small_benchmark.params(evaluate__bootstrap=200)
    small_benchmark.make()
    for file in layout.raw_dir("small").glob("v*.mp4"):
        (layout.raw_dir("small") / file.stem).mkdir()
        file.rename(layout.raw_dir("small") / file.stem / "clip.mp4")
    change_manifest(
        path=lambda row: f"{row['video_id']}/clip.mp4",
        video_id=lambda row: f"{row['video_id']}/clip",
    )
    preprocess.run(params, "small")
    classifier(params)
    metrics = evaluate.run(params, "small")
    rows = predictions()
    assert metrics["eval/videos_ok"] == TESTS
    assert len({row["video_id"] for row in rows}) == TESTS
    assert len({tuple(row["probabilities"]) for row in rows}) == TESTS


def test_the_validation_split_is_scored_where_test_labels_are_not_public(here: Path) -> None:
    params = prepared(evaluate__split="val")
    with pytest.raises(InputError, match=r"0 val videos.*evaluate\.split"):
        evaluate.run(params, "small")
    change_manifest(
        split=lambda row: "val" if row["video_id"] in ("v000", "v001") else row["split"],
        label=lambda row: -1 if row["split"] == "test" else row["label"],
    )
    preprocess.run(params, "small")
    assert evaluate.run(params, "small")["eval/videos_total"] == 2
    with pytest.raises(InputError, match=r"6 test videos and 0 with a label"):
        evaluate.run(small_benchmark.params(), "small")


def test_only_a_validation_score_of_another_split_moves_the_alias_best(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = ready(evaluate__bootstrap=100, recipe="choosing")
    classifier(params, validate_split="test", select="last", frozen=True)
    evaluate.run(params, "small")
    store = Store.existing()
    version = store.models.version("everest-choosing-small", "candidate")
    assert version["aliases"] == ["candidate"]
    assert "score" not in version["tags"]
    assert "both test" in version["tags"]["not_best"]
    assert version["tags"]["chosen_by_reported_split"] == "the probe's head"
    assert "alias `best` does not move" in caplog.text
    classifier(params, validate_split="val", select="best")
    layout.results_file("finetune", "small").write_text(json.dumps({"val/top1": 0.4}))
    evaluate.run(params, "small")
    version = store.models.version("everest-choosing-small", "best")
    assert (version["version"], version["tags"]["score"]) == ("2", "0.4")


@pytest.mark.parametrize(("validated_on", "reported", "select", "score", "optimistic"), [
    ("val", "test", "best", 0.5, ""), ("val", "val", "last", None, ""), ("val", "val", "best", None, "the checkpoint"),
    ("test", "val", "last", None, ""), ("test", "test", "last", None, ""),
])  # fmt: skip
def test_what_chooses_is_never_what_is_reported(
    here: Path, validated_on: str, reported: str, select: str, score: float | None, optimistic: str
) -> None:
    path = layout.results_file("finetune", "small")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"val/top1": 0.5}))
    info = {"validate_split": validated_on, "select": select}
    assert choice.score_to_choose_by(info, "small", reported)[0] == score
    assert choice.chosen_by_reported_split(info, reported) == optimistic
    assert choice.score_to_choose_by({}, "small", reported) == (
        None,
        "the model does not say which split validated it",
    )


def test_two_ranks_give_every_bit_of_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six videos in three groups over two torchrun ranks: one rank has more, and one video is bad."""
    params = prepared(evaluate__failure_budget=0.2, evaluate__segments=2, compute__device="cpu")
    change_manifest(
        status=lambda row: "quarantined" if row["video_id"] == "v023" else "ok",
        reason=lambda row: "truncated" if row["video_id"] == "v023" else "",
    )
    preprocess.run(params, "small")
    # The ranks are handed what this process read: there is no params.yaml that they could read instead.
    assert not Path("params.yaml").exists()
    torch.set_num_threads(1)
    alone, rows = evaluate.run(params, "small"), predictions()
    shutil.rmtree(layout.output_dir("evaluate", "small"))
    monkeypatch.setattr(evaluate, "_ranks", lambda _: 2)
    both = evaluate.run(params, "small")
    assert predictions() == rows
    assert sum(row["probabilities"] is None for row in rows) == 1
    scores = {name for name in alone if name.startswith("eval/")}
    assert {name: both[name] for name in scores} == {name: alone[name] for name in scores}


@pytest.mark.parametrize(("ranks", "device", "gpus", "expected"), [
    (8, "auto", True, 8), (8, "cpu", True, 1), (8, "auto", False, 1), (1, "cuda", True, 1),
])  # fmt: skip
def test_ranks_are_used_where_each_has_a_gpu(
    ranks: int, device: str, gpus: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    params = small_benchmark.params(compute__ranks=ranks, compute__device=device)
    assert evaluate._ranks(params) == expected


def test_what_is_missing_or_does_not_fit_is_named_before_any_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = ready()
    with pytest.raises(InputError, match=r"outputs/finetune/small/model.json does not exist.*Cure"):
        evaluate.run(params, "small")
    classifier(params, classes=5)
    with pytest.raises(InputError, match=r"num_classes = 5, expected 8.*everest finetune small"):
        evaluate.run(params, "small")
    for name, value in {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-a", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(f"PET_{name}", value)
    with pytest.raises(InputError, match="evaluate publishes from one node"):
        evaluate.run(small_benchmark.params(), "small")
    with pytest.raises(InputError, match="needs a benchmark"):
        evaluate.run(params, None)
    assert not Path("outputs/evaluate").exists()


def test_names_of_classes_are_no_formulas_and_read_back_as_they_are(here: Path) -> None:
    from pipeline.evaluation.files import read_confusion
    from pipeline.system.csv_files import read_rows

    params = prepared()
    names = ["=1+1", "@x", "-y", "'=z", "[/b] $x$_{", "line\nend", "esc\x1b[2J", "a,\"b';c"]
    small_benchmark.name_classes(names)
    classifier(params)
    evaluate.run(params, "small")
    folder = layout.output_dir("evaluate", "small")
    assert read_confusion(folder / "confusion.csv")[0] == names
    assert [row[0] for row in read_rows(folder / "per_class.csv")[1:]] == names
    plot = layout.metrics_file("evaluate", "small").with_suffix(".csv")
    assert {name for row in read_rows(plot)[1:] for name in row} <= set(names)
    for path in (folder / "confusion.csv", folder / "per_class.csv", plot):
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
