"""The stage that says what trivial models reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_training import ready

from pipeline import layout
from pipeline.errors import InputError
from pipeline.evaluation import baselines
from pipeline.evaluation.baselines import Baseline, Clips
from pipeline.evaluation.metrics import Interval
from pipeline.params import with_overrides
from pipeline.stages import baseline


def test_trivial_models_are_scored_on_the_split_that_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready()
    rows = baseline.run(params, "small")
    assert len(rows) == 8
    assert rows == json.loads((layout.output_dir("baseline", "small") / "baselines.json").read_text())
    again = baseline.run(params, "small")
    assert again == rows, "a second run gives the same numbers"


def test_a_benchmark_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="everest baseline NAME"):
        baseline.run(ready(), None)


def test_trivial_models_get_the_labels_that_fine_tuning_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready()
    given: list[int] = []

    def scored(train: Clips, *_: object, **__: object) -> list[Baseline]:
        given.append(len(train.labels))
        return [Baseline("one", 0.5, Interval(0.4, 0.6))]

    monkeypatch.setattr(baselines, "baselines", scored)
    for overrides in ({}, {"finetune.label_fraction": 0.5}, {"benchmarks.small.finetune.label_fraction": 0.25}):
        baseline.run(with_overrides(params, overrides), "small")
    # Six classes of three videos: of each a half, rounded to two, and a quarter, rounded to one.
    assert given == [18, 18, 12, 12, 6, 6]  # in clips as they are, and over the whole of each video


@pytest.mark.parametrize(("one_frame", "moved", "clip_input", "said"), [
    (0.20, 0.30, "rgb", True),
    (0.20, 0.45, "rgb", True),
    (0.20, 0.30, "difference", False),
    (0.45, 0.30, "rgb", False),
])  # fmt: skip
def test_before_training_it_says_that_differences_alone_tell_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    one_frame: float, moved: float, clip_input: str, said: bool,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(baselines, "baselines", lambda *_, **__: [
        Baseline("one frame, nearest neighbours", one_frame, Interval(one_frame - 0.05, one_frame + 0.05)),
        Baseline("frame differences, logistic regression", 0.5, Interval(0.45, 0.55)),
        Baseline("frame differences at random places, logistic regression", moved, Interval(moved - 0.05, moved + 0.05)),  # noqa: E501
    ])  # fmt: skip
    with caplog.at_level("WARNING"):
        baseline.run(with_overrides(ready(), {"clip.input": clip_input}), "small")
    assert ("one frame 20.0 %): with few videos try clip.input: difference" in caplog.text) is said
    head = "where in the picture things move tells the classes (50.0 %; moved to random places 30.0 %)" in caplog.text
    assert head is (moved == 0.3 and one_frame == 0.2)


@pytest.mark.parametrize(("whole", "said"), [(0.6, True), (0.45, False)])
def test_it_says_where_clips_over_the_whole_of_each_video_tell_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, whole: float, said: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    scores, lengths = iter((0.4, whole)), []

    def scored(train: Clips, *_: object, **__: object) -> list[Baseline]:
        lengths.append(train.pictures.shape[1])
        score = next(scores)
        return [Baseline("frame differences, logistic regression", score, Interval(score - 0.05, score + 0.05))]

    params = ready()
    monkeypatch.setattr(baselines, "baselines", scored)
    with caplog.at_level("WARNING"):
        rows = baseline.run(params, "small")
    assert lengths == [params.clip.frames] * 2
    assert [row["top1"] for row in rows] == [40]  # what is reported is the clips that models are given
    found = (
        "tell more (60.0 % by the best trivial model; 40.0 % here): try frame_step: {clip_share: 1.0}" in caplog.text
    )
    assert found is said
