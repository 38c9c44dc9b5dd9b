"""`everest init` asks trivial models whether motion tells the classes of short videos, and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.video import write_video
from pipeline.evaluation.baselines import Baseline, Told
from pipeline.evaluation.metrics import Interval
from pipeline.params import load_params
from pipeline.setup.evidence import chosen_by
from pipeline.setup.init import init

pytestmark = pytest.mark.usefixtures("elsewhere")

SIZE, FRAMES, COPIES = 48, 12, 96


def spots(folder: Path, *, anywhere: bool) -> Path:
    """Videos in which one spot brightens while the one beside it darkens: which of them does is the class.

    The frame in the middle shows both alike, and so does the mean over the picture at any time.
    """
    rng = np.random.default_rng(4)
    level = np.array([20] * 5 + [125] * 3 + [230] * 4)
    for number in range(2 * COPIES):
        label = number % 2
        clip = np.repeat(
            np.kron(rng.integers(0, 255, (1, 6, 6, 3), dtype=np.uint8), np.ones((1, 8, 8, 1), np.uint8)), FRAMES, 0
        )
        for time, frame in enumerate(clip):
            for spot, course in enumerate((level, level[::-1])):
                place = 15 + 9 * (spot ^ label)
                frame[18:27, place : place + 9] = course[time]
        if anywhere:
            clip = np.roll(clip, tuple(rng.integers(0, SIZE, 2)), axis=(1, 2))
        write_video(folder / "ab"[label] / f"{number:03d}.mp4", clip, fps=25)
    return folder


def test_clips_become_differences_and_places_where_that_is_what_tells_the_classes(tmp_path: Path) -> None:
    made = init(spots(tmp_path / "fixed", anywhere=False), device="a6000")
    params = load_params(Path("params.yaml"))
    assert (params.clip.input, params.finetune.head, params.finetune.keep_ratio) == ("difference", "places", 1.0)
    model = Baseline("differences, logistic regression", 0.9, Interval(0.8, 1.0))
    many = chosen_by(Told(model, model, model, model, by_motion=True, by_place=True), 1568)
    assert "finetune.head" in many
    assert "finetune.keep_ratio" not in many  # it would nearly double the cost
    assert params.finetune.crop_scale == many["finetune.crop_scale"].value == [0.9, 1.0]
    assert params.pretrain.monitor.health.learned_nothing == 0.01
    text = " ".join(Path("params.yaml").read_text().replace("#", " ").split())
    assert "frame differences tell 100 % of held-out training videos to a trivial model, one frame" in text
    assert "where things move tells:" in text
    assert made.values["clip.input"].value == "difference"


def test_the_head_stays_the_papers_where_things_move_anywhere(tmp_path: Path) -> None:
    init(spots(tmp_path / "anywhere", anywhere=True), device="a6000")
    finetune = load_params(Path("params.yaml")).finetune
    assert (finetune.head, finetune.keep_ratio) == ("mean", 0.6)


def test_without_evidence_nothing_is_chosen() -> None:
    assert chosen_by(None, 64) == {}
