"""The verdict looks at real checkpoints through the monitor's probe: it names, it ranks, it stops what is broken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import coloured_squares
import numpy as np
import pytest
import several_classes
import small_benchmark
import torch
from sklearn.metrics import label_ranking_average_precision_score

from models.registry import architecture, create_autoencoder
from pipeline import layout
from pipeline.data.clips.dataset import pretraining_clips
from pipeline.distributed.groups import Ranks
from pipeline.efficiency.clip_cost import autoencoder_arguments
from pipeline.errors import EverestError
from pipeline.experiments import cells, slices
from pipeline.monitor.clips import monitored_clips
from pipeline.monitor.look import take_look
from pipeline.monitor.twin import Twin
from pipeline.params import Params
from pipeline.params.declared import corpus_inputs, work_key
from pipeline.planning.equal import Trial, plan
from pipeline.stages import corpus, preprocess
from pipeline.tracking import names
from pipeline.training.checkpoint import Checkpoints
from pipeline.verdict import probe
from pipeline.verdict.probe import probe_scores
from pipeline.verdict.record import sentences

VIDEOS, SPLITS = 96, ("train", "train", "val")


def parameters(**overrides: object) -> Params:
    return small_benchmark.params(compute__device="cpu", preprocess__short_side=32, **overrides)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with coloured squares in a cache and a corpus: the current one."""
    folder, before = tmp_path_factory.mktemp("squares"), Path.cwd()
    os.chdir(folder)
    small_benchmark.make(VIDEOS, splits=SPLITS, draw=coloured_squares.frames, labels=lambda number: (number % 4,))
    preprocess.run(parameters(), "small")
    corpus.run(parameters(), "small")
    yield folder
    os.chdir(before)


def weights(params: Params, broken: bool = False) -> dict[str, torch.Tensor]:
    """Of a network that nobody trained; `broken`: its features are those of no clip."""
    torch.manual_seed(0)
    arguments = autoencoder_arguments(params.pretrain, params.clip)
    model = create_autoencoder(architecture("tiny", pretrain=True), arguments)
    if broken:
        torch.nn.init.zeros_(model.encoder.norm.weight)
    return dict(model.state_dict())


def test_it_finds_what_the_monitor_finds_on_the_same_clips(squares: Path, tmp_path: Path) -> None:
    params = parameters(pretrain__monitor__feature_clips=probe.MOST_CLIPS)
    Checkpoints(tmp_path).write(5, {"model": weights(params)}, {"step": 5})
    scores = probe_scores(params, tmp_path, "small")
    assert scores.shape == (VIDEOS // 3,)
    assert scores.mean() > 0.8
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    arguments = autoencoder_arguments(params.pretrain, params.clip)
    twin = Twin(architecture("tiny", pretrain=True), arguments, params.clip.resolution, ranks.device, None)
    watched = monitored_clips(params, pretraining_clips(params))
    found = take_look(twin, weights(params), watched, ranks, long=True, alive=lambda: None)
    assert scores.mean() == found[names.monitor_of(names.KNN, "small")]


def test_of_an_average_of_the_weights_it_looks_at_that(squares: Path, tmp_path: Path) -> None:
    params = parameters()
    tensors = {"model": weights(params, broken=True), "average": weights(params)}
    Checkpoints(tmp_path).write(5, tensors, {"step": 5})
    assert probe_scores(params, tmp_path, "small").mean() > 0.8


def test_features_that_are_no_numbers_name_nothing_and_an_empty_folder_is_an_error(
    squares: Path, tmp_path: Path
) -> None:
    params = parameters()
    far_off = {name: value + float("nan") for name, value in weights(params).items()}
    Checkpoints(tmp_path / "nan").write(5, {"model": far_off}, {"step": 5})
    assert probe_scores(params, tmp_path / "nan", "small").tolist() == [0.0] * (VIDEOS // 3)
    with pytest.raises(EverestError, match=r"no intact checkpoint to look at. Cure"):
        probe_scores(params, tmp_path / "none", "small")


def test_a_strategy_whose_features_are_broken_is_stopped_at_the_second_look(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVEREST_CELLS", str(tmp_path / "cells"))
    monkeypatch.setattr("pipeline.report.comparison.corpus_size", lambda name: 64)
    params = parameters(
        compare__strategies=["everest", "everest-keep-0.4", "tube"], compare__seeds=[0], compare__stop="futile",
        pretrain__epochs=10, finetune__init="outputs/pretrain",
    )  # fmt: skip
    ran: list[tuple[str, float]] = []

    def run_slice(trial: Trial, share: float, **_: object) -> bool:
        """The slice of a training that learns nothing; of `tube` one that has lost everything."""
        ran.append((trial.arm, share))
        key = work_key("pretrain", None, trial.params, corpus_inputs(trial.params.pretrain.corpus))
        work = cells.cell(trial) / layout.work_dir("pretrain", None, key)
        tensors = weights(trial.params, broken=trial.arm == "tube")
        Checkpoints(work / "checkpoints").write(round(100 * share), {"model": tensors}, {})
        return False

    monkeypatch.setattr(slices, "run_slice", run_slice)
    left, verdict = slices.early_verdict(params, plan(params))
    assert [trial.arm for trial in left] == ["everest", "everest-keep-0.4"]
    assert [share for arm, share in ran if arm == "tube"] == [0.2, 0.4]
    assert [share for arm, share in ran if arm == "everest-keep-0.4"] == [0.2, 0.4, 0.6, 0.8]
    (saved,) = verdict["saved"]
    assert (saved["strategy"], saved["after"]) == ("tube", 0.4)
    assert saved["tmacs"] > 0
    assert next(iter(sentences(verdict))).startswith("tube was stopped after 40 % of its pre-training")


def test_videos_with_several_classes_are_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = parameters()

    def classes(number: int) -> tuple[int, ...]:
        return tuple(sorted(several_classes.CLASSES.index(name) for name in several_classes.sets(number + 1)[number]))

    small_benchmark.make(
        42, splits=SPLITS, labels=classes,
        draw=lambda number: several_classes.frames(several_classes.sets(number + 1)[number], number),
    )  # fmt: skip
    preprocess.run(params, "small")
    Checkpoints(tmp_path).write(5, {"model": weights(params)}, {"step": 5})
    asked: list[np.ndarray] = []
    real = probe.clip_scores

    def watched(guess: np.ndarray, truth: np.ndarray, several: bool) -> np.ndarray:
        asked.extend((guess, truth))
        return real(guess, truth, several)

    monkeypatch.setattr(probe, "clip_scores", watched)
    scores = probe_scores(params, tmp_path, "small")
    guess, truth = asked
    assert truth.tolist() == [[label in classes(number) for label in range(3)] for number in range(2, 42, 3)]
    assert scores.mean() == pytest.approx(label_ranking_average_precision_score(truth, guess))
    assert ((scores > 0) & (scores <= 1)).all()
