"""The stages on files of 15, 25 and 60 frames a second whose clips are cut by time, or over the whole of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import rated_videos

from pipeline import api, layout
from pipeline.evaluation.files import read_predictions
from pipeline.model_folder import describe
from pipeline.stages import baseline, evaluate, finetune, pretrain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "window", "note", "start"),
    [
        ({"clip_seconds": 2.0}, "grow", ("frame_seconds", 0.25), 1.0),
        ({"clip_share": 1.0}, "fixed", ("frame_share", 0.125), 0.0),
    ],
)
def test_pre_training_fine_tuning_test_and_prediction_go_by_time_or_by_share(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: dict[str, float],
    window: str,
    note: tuple[str, float],
    start: float,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "videos").mkdir()
    rated_videos.write_set(tmp_path / "videos", copies=2)
    few = {"epochs": 1, "batch": 2, "warmup_epochs": 0.0}
    params = rated_videos.ready(
        tmp_path / "videos",
        step,
        **{f"{stage}__{name}": value for stage in ("pretrain", "finetune") for name, value in few.items()},
        pretrain__frame_selection={"mode": "cached", "oversample": 1.5, "window": window},
        finetune__repeated_augmentation=1,
        evaluate__bootstrap=100,
        evaluate__segments=2,
        evaluate__crops=1,
        evaluate__budgets=[],
    )
    assert len(baseline.run(params, "small")) == 8
    pretrain.run(params, None)
    assert describe(layout.output_dir("pretrain")).notes[note[0]] == {"small": note[1]}
    finetune.run(params, "small")
    scores = evaluate.run(params, "small")
    assert scores["eval/videos_ok"] == 6
    tested = read_predictions(layout.output_dir("evaluate", "small") / "predictions.parquet")
    # The model's own record says how: nothing is told to predict. The cache is raw, so that pixels are the file's.
    names = [f"videos/{video}.mp4" for video in tested["video_id"]]
    answers = api.predict(names, str(layout.output_dir("finetune", "small")), segments=2, device="cpu")
    assert answers.probabilities == pytest.approx(tested["probabilities"], abs=1e-6)
    if "clip_share" in step:  # windows in a longer video are as long as the clip of a typical one: 4 s at 25 a second
        assert describe(layout.output_dir("finetune", "small")).notes["typical_frame_step"] == 12
        (shown,) = api.timeline(names[:1], str(layout.output_dir("finetune", "small")), device="cpu").timelines
        assert shown.segments is not None
    times = api.embed(["videos"], str(layout.output_dir("pretrain")), out="f.parquet").features().table
    assert times["start_seconds"].to_pylist() == pytest.approx([start] * 12, abs=0.04)
