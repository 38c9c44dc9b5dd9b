"""Timelines of a model whose clips are cut by time: windows of files of any rate begin and end at the same moments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rated_videos
import tiny_classifier

from models.info import Views
from models.weights import write_info
from pipeline import api
from pipeline.data.video import write_video
from pipeline.model_folder import describe
from pipeline.serving.limits import ServingLimits
from pipeline.serving.service import Asked, Service

#: [s] from one frame of a clip to the next: 8 frames span 2 s.
INTERVAL = 0.25


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_classifier.save(tmp_path_factory.mktemp("model"), 3, Views(1, 1))
    info = describe(folder)
    timed = replace(info, frame_step=None, notes={**info.notes, "frame_seconds": INTERVAL})
    write_info(folder, timed.as_dict())
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rated")
    for rate in (6, *rated_videos.RATES):
        write_video(folder / f"{rate:02d}.mp4", rated_videos.frames(rate), fps=rate, crf=4)
    return sorted(folder.iterdir())


def test_windows_of_all_rates_are_the_same_moments_with_the_probabilities_of_predict(
    model: Path, videos: list[Path], tmp_path: Path
) -> None:
    found = api.timeline(videos, str(model), out=tmp_path, threshold=0, device="cpu")
    answers = api.predict(videos, str(model), device="cpu")
    for one, rate, answer in zip(found.timelines, (6, *rated_videos.RATES), answers.probabilities, strict=True):
        table = pq.read_table(one.table)
        # 16 samples in 4 s, half a window is 4 of them: windows from 0, 1 and 2 s, each 8 samples.
        first, last = table["first_frame"].to_numpy(), table["last_frame"].to_numpy()
        assert np.abs(first / rate - [0, 1, 2]).max() <= 0.5 / rate
        assert np.abs(last / rate - [1.75, 2.75, 3.75]).max() <= 0.5 / rate + 1e-9
        assert np.abs(table["start"].to_numpy() - [0, 1, 2]).max() <= 0.5 / rate
        assert json.loads(pq.read_schema(one.table).metadata[b"everest"])["step"] == "0.25 s"
        # The clip in the middle of the file is the second window.
        row = [table[name][1].as_py() for name in tiny_classifier.NAMES]
        assert row == pytest.approx(answer.tolist(), abs=1e-6)


def test_a_server_answers_as_predict_does(model: Path, videos: list[Path]) -> None:
    answers = api.predict(videos, str(model), device="cpu")
    service = Service(str(model), ServingLimits(folder=videos[0].parent.resolve()))
    try:
        served = service.answer([Asked(path=video.name) for video in videos])
    finally:
        service.close()
    for one, expected in zip(served, answers.probabilities, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_number_of_frames_goes_over_the_seconds(model: Path, videos: list[Path], tmp_path: Path) -> None:
    found = api.timeline(videos[-1:], str(model), out=tmp_path, threshold=0, frame_step=2, device="cpu")
    table = pq.read_table(found.timelines[0].table)
    assert (table["last_frame"].to_numpy() - table["first_frame"].to_numpy()).tolist() == [14] * table.num_rows
