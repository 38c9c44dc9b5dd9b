"""What a model for several classes answers: a probability for each class, and all classes from one half on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sample_videos
import tiny_classifier
import torch

from models.info import Views
from models.weights import write_info
from pipeline import api
from pipeline.data.frame_step import Step
from pipeline.data.video import write_video
from pipeline.evaluation.metrics import sigmoid
from pipeline.inference.convert import convert
from pipeline.inference.isolated import IsolatedViews
from pipeline.model_folder import describe
from pipeline.timeline.segments import Segment, cells_of, merge

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_classifier.save(tmp_path_factory.mktemp("model"), 3, Views(2, 1))
    info = describe(folder)
    write_info(folder, replace(info, notes={**info.notes, "multi_label": True}).as_dict())
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"{number}.mp4", sample_videos.moving(40, 48, 64, seed=number), fps=25)
    return sorted(folder.iterdir())


def test_probabilities_are_the_mean_over_views_of_sigmoids_of_the_logits(model: Path, videos: list[Path]) -> None:
    found = api.predict(videos, str(model), device="cpu")
    loaded = api.load(model, device="cpu")
    how = {"frames": 8, "step": 3, "segments": 2, "crops": 1, "grid": 1}
    with IsolatedViews.by_params() as reader:
        for video, given in zip(videos, found.probabilities, strict=True):
            with torch.inference_mode():
                logits = loaded.network(loaded.pixels(reader.read(video, how, Step(how["step"])))).numpy()
            assert given == pytest.approx(sigmoid(logits).mean(axis=0), abs=1e-5)
    assert found.several
    for one, given in zip(found.predictions, found.probabilities, strict=True):
        assert one.labels == tuple(name for name, p in zip(tiny_classifier.NAMES, given, strict=True) if p >= 0.5)


def test_files_and_printed_rows_have_all_classes_from_one_half_on(model: Path, videos: list[Path]) -> None:
    found = api.predict(videos, str(model), out="p.csv", device="cpu")
    expected = ["|".join(one.labels) for one in found.predictions]
    with Path("p.csv").open(encoding="utf-8", newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == expected
    rows = json.loads(json.dumps(found.as_dict()))["predictions"]
    assert [row["labels"] for row in rows] == expected
    assert list(rows[0]["probabilities"].values()) == pytest.approx(found.probabilities[0].tolist())


def test_segments_are_those_of_each_class_and_may_overlap() -> None:
    starts, ends = np.arange(4.0), np.arange(4.0) + 1
    given = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.7, 0.3]])
    cells = cells_of(starts, ends, given)
    found = merge(cells, ("a", "b"), threshold=0.5, several=True)
    assert found == [
        Segment(0, 2, "a", pytest.approx(0.85)),
        Segment(1, 3, "b", pytest.approx(0.65)),
        Segment(3, 4, "a", pytest.approx(0.7)),
    ]
    assert [one.class_name for one in merge(cells, ("a", "b"), 0.5, shortest=1.5, several=True)] == ["a", "b"]


def test_a_timeline_shows_classes_at_the_same_time(model: Path, videos: list[Path]) -> None:
    found = api.timeline(videos[:1], str(model), out="t", threshold=0.0, device="cpu")
    assert {one.class_name for one in found.timelines[0].segments} == set(tiny_classifier.NAMES)
    assert Path(found.timelines[0].picture).stat().st_size > 1000


def test_the_record_goes_with_the_model_and_to_hugging_face(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "hf", "huggingface")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    convert(tmp_path / "hf", tmp_path / "back", "ours", frame_step=2)
    assert describe(tmp_path / "back").multi_label
    info = describe(model)
    with pytest.raises(ValueError, match="multi_label = 'yes', expected true or false"):
        replace(info, notes={"multi_label": "yes"})
    assert not replace(info, notes={}).multi_label
