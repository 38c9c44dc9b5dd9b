"""A pre-training that is broken on purpose is named within a tenth of its budget; one that is well is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import small_benchmark
import torch
from torch import Tensor

from models.autoencoder import EverestAutoencoder
from models.coders import Encoder
from models.selection import Grid
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.monitor.record import read_record
from pipeline.stages import corpus, preprocess
from pipeline.system.processes import StopRequest
from pipeline.training import worker
from pipeline.training.engine import Engine

#: Two steps an epoch: a budget of 400 steps, of which 40 are taken.
EPOCHS, TENTH = 200, 40


def alarms_of_a_tenth(
    folder: Path, monkeypatch: pytest.MonkeyPatch, frames: Any, passed: bool = False, **changes: Any
) -> dict[str, float]:
    """Rules that hold after a tenth of the steps, on videos of these frames (seed, count, height, width).

    With each the share of the steps [%] after which it was raised. With `passed` those too that hold no longer.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setattr(small_benchmark, "moving_frames", frames)
    settings = {
        "pretrain__epochs": EPOCHS,
        "pretrain__warmup_epochs": 4.0,
        "pretrain__base_lr": 6.4e-2,  # at a batch of 8: 2e-3
        "pretrain__checkpoint_every_steps": 1000,
        "pretrain__monitor__every": 5.0,
        "pretrain__monitor__max_cost": 1.0,
        "pretrain__monitor__feature_clips": 24,
        "pretrain__monitor__health": {"loader_wait": 1.0, "memory": 1.0},  # this machine's, not the training's
    }
    params = small_benchmark.params(**(settings | changes))
    small_benchmark.make(count=28, splits=("train", "train", "train", "val"))
    preprocess.run(params, "small")
    corpus.run(params, "small")
    stop = StopRequest()
    real = Engine._train_step

    def stops_at_a_tenth(self: Engine, *arguments: Any) -> None:
        if self.step == TENTH - 1:
            stop.signal = "SIGTERM"
        real(self, *arguments)

    monkeypatch.setattr(Engine, "_train_step", stops_at_a_tenth)
    work = folder / "work"
    work.mkdir()
    job = worker.TrainingJob("pretrain", None, "cpu", params.model_dump(mode="json"), str(work / "spool.jsonl"))
    with pytest.raises(Interrupted):
        worker.train(job, work, Ranks(0, 1, 0, torch.device("cpu")), Pulse(None), stop)
    record = read_record(work)
    assert record is not None
    assert (record.checked, record.steps) == (TENTH, 10 * TENTH)
    named = {alarm.rule: 100 * alarm.step / record.steps for alarm in (record.alarms if passed else record.active)}
    sys.stderr.write(f"named: {named}\n")  # `pytest -rP` shows it
    return named


MOVING = small_benchmark.moving_frames


def constant(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A video of one grey."""
    return np.full((frames, height, width, 3), 40 + 5 * seed, dtype=np.uint8)


def resting(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A video that is its first frame."""
    return np.repeat(MOVING(seed, 1, height, width), frames, axis=0)


def test_a_pretraining_that_is_well_raises_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alarms_of_a_tenth(tmp_path, monkeypatch, MOVING, passed=True) == {}


def test_a_learning_rate_of_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[str, Any] = {"pretrain__base_lr": 1e-9, "pretrain__min_lr": 0.0}
    assert {"rate-too-low", "learned-nothing"} <= alarms_of_a_tenth(tmp_path, monkeypatch, MOVING, **rates).keys()


def test_a_hundred_times_the_learning_rate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = alarms_of_a_tenth(tmp_path, monkeypatch, MOVING, pretrain__base_lr=6.4)
    assert found.keys() & {"rate-too-high", "diverging", "learned-nothing"}


@pytest.mark.parametrize("frames", [constant, resting])
def test_clips_that_teach_nothing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: Any) -> None:
    assert "bad-clips" in alarms_of_a_tenth(tmp_path, monkeypatch, frames)


@pytest.mark.parametrize("by", ["clip", "token"])
def test_targets_of_another_clip_or_token_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """The clips are much alike, and the loss falls as that of a training that is well."""
    real = EverestAutoencoder.compare

    def compare(
        self: EverestAutoencoder, clip_BCTHW: Tensor, window: Grid, source_BR: Tensor, *others: Any, **named: Any
    ) -> Tensor:
        clip_BCTHW = clip_BCTHW.roll(1, 0) if by == "clip" else clip_BCTHW
        source_BR = source_BR.roll(1, 1) if by == "token" else source_BR
        return real(self, clip_BCTHW, window, source_BR, *others, **named)

    monkeypatch.setattr(EverestAutoencoder, "compare", compare)
    assert alarms_of_a_tenth(tmp_path, monkeypatch, MOVING)["other-targets"] == 0


def test_an_encoder_that_gives_all_clips_one_feature_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Encoder.__init__

    def init(self: Encoder, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        for parameter in self.norm.parameters():
            torch.nn.init.ones_(parameter).requires_grad_(False)
        torch.nn.init.zeros_(cast(Tensor, self.norm.weight))

    monkeypatch.setattr(Encoder, "__init__", init)
    assert "collapse" in alarms_of_a_tenth(tmp_path, monkeypatch, MOVING)
