"""The monitor over real trainings: it changes no bit, and says the same on any number of ranks and after a stop."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_benchmark
import torch

from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.monitor import monitor
from pipeline.monitor.record import MonitorRecord, read_record
from pipeline.stages import corpus, preprocess
from pipeline.system.processes import StopRequest
from pipeline.tracking import names
from pipeline.training import worker
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.engine import Engine
from tests.faults import rank_trials

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
#: 21 training videos in batches of 8: two steps an epoch.
SHORT: dict[str, Any] = {
    "pretrain__epochs": 4,
    "pretrain__warmup_epochs": 1.0,
    "pretrain__checkpoint_every_steps": 3,
    "compute__ranks": 1,
    "pretrain__monitor__every": 1.0,
    "pretrain__monitor__max_cost": 1.0,
    "pretrain__monitor__heldout_clips": 7,
    "pretrain__monitor__feature_clips": 24,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with videos, cache and corpus, which all tests of this module train on."""
    folder, before = tmp_path_factory.mktemp("watched"), Path.cwd()
    os.chdir(folder)
    params = small_benchmark.params(**SHORT)
    small_benchmark.make(count=28, splits=("train", "train", "train", "val"))
    preprocess.run(params, "small")
    corpus.run(params, "small")
    yield folder
    os.chdir(before)


def write_job(work: Path, **changes: Any) -> None:
    params = small_benchmark.params(**(SHORT | changes)).model_dump(mode="json")
    worker.TrainingJob("pretrain", None, "cpu", params, str(work / "spool.jsonl")).write(work)


def train(work: Path, ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
    """The body of a rank."""
    worker.train(worker.TrainingJob.read(work), work, ranks, pulse, stop)


def trained(work: Path, ranks: int = 1, **changes: Any) -> MonitorRecord | None:
    """Train in `work` to the end, as one process or as forked ranks; the monitor's record."""
    work.mkdir(parents=True, exist_ok=True)
    write_job(work, **changes)
    if ranks == 1:
        train(work, ALONE, Pulse(None), StopRequest())
    else:
        assert [end.state for end in rank_trials.forked(work, ranks, None, train)] == ["done"] * ranks
    return read_record(work)


def weights(work: Path) -> bytes:
    return (work / "final" / "model.safetensors").read_bytes()


def found(record: MonitorRecord | None) -> list[tuple[int, float, dict[str, float]]]:
    assert record is not None
    return [(look.step, look.gmacs, dict(look.metrics)) for look in record.looks]


def test_training_with_a_monitor_is_training_without_to_the_bit(project: Path, tmp_path: Path) -> None:
    record = trained(tmp_path / "watched", pretrain__ema_decay=0.9)
    assert trained(tmp_path / "alone", pretrain__ema_decay=0.9, pretrain__monitor__unit="off") is None
    assert weights(tmp_path / "watched") == weights(tmp_path / "alone")
    assert rank_trials.losses(tmp_path / "watched") == rank_trials.losses(tmp_path / "alone")
    assert record is not None
    assert [look.step for look in record.looks] == [0, 2, 4, 6, 8]


def test_every_number_of_a_look_is_there_and_in_its_range(project: Path, tmp_path: Path) -> None:
    record = trained(tmp_path)
    assert record is not None
    depth = range(4)
    wanted = {
        names.HELDOUT_LOSS, names.MEAN_LOSS, names.COPY_LOSS, names.LOSS_SHARE, names.RANK_ME, names.DEVIATION,
        names.UNIFORMITY, names.ENCODER_GRADIENT, names.OWN_TARGETS, *map(names.attention_entropy, depth),
        *(names.monitor_of(probe, "small") for probe in (names.KNN, names.RIDGE, names.RIDGE_SEEN)),
    }  # fmt: skip
    for look in record.looks:
        assert wanted <= look.metrics.keys()
        assert look.metrics[names.MEAN_LOSS] == pytest.approx(1, abs=0.03)
        assert look.metrics[names.LOSS_SHARE] == look.metrics[names.HELDOUT_LOSS] / look.metrics[names.MEAN_LOSS]
        assert 1 <= look.metrics[names.RANK_ME] <= 24
        assert 0 < look.metrics[names.ENCODER_GRADIENT] < 1
        assert look.metrics[names.OWN_TARGETS] == pytest.approx(1, abs=1e-5)
        assert all(0 < look.metrics[names.attention_entropy(block)] <= 1 for block in depth)
    # At the start weights are random and attention is even.
    assert record.looks[0].metrics[names.attention_entropy(0)] > 0.9
    assert [look.gmacs for look in record.looks] == pytest.approx([k * record.looks[1].gmacs for k in range(5)])


def test_the_spool_has_the_numbers_by_step_and_by_multiply_adds(project: Path, tmp_path: Path) -> None:
    record = trained(tmp_path)
    assert record is not None
    lines = [json.loads(line) for line in (tmp_path / "spool.jsonl").read_text().splitlines()]
    metrics = [line for line in lines if line["k"] == "m"]
    steps = [line["s"] for line in metrics if names.LOSS_SHARE in line["v"]]
    gmacs = [line["s"] for line in metrics if names.by_gmacs(names.LOSS_SHARE) in line["v"]]
    assert steps == [look.step for look in record.looks]
    assert gmacs == [round(look.gmacs) for look in record.looks]
    tags = {name: value for line in lines if line["k"] == "g" for name, value in line["v"].items()}
    assert tags["everest.health"] == record.verdict
    final = json.loads((tmp_path / "final" / "metrics.json").read_text())
    assert final[names.LOSS_SHARE] == record.newest[names.LOSS_SHARE]
    # Of the whole training, not of what there was when the monitor looked last.
    looks, training = final[names.MONITOR_SECONDS], final[names.efficiency("train_seconds")]
    assert final[names.MONITOR_FRACTION] == pytest.approx(looks / (looks + training), rel=1e-3)
    assert read_record(tmp_path / "final") == record


def test_a_stopped_training_says_what_one_that_never_stopped_does(project: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    work = tmp_path / "stopped"
    work.mkdir()
    write_job(work)
    stop = StopRequest()
    real = Engine._train_step

    def stops_at_five(self: Engine, *arguments: Any) -> None:
        real(self, *arguments)
        if self.step == 4:
            stop.signal = "SIGTERM"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_train_step", stops_at_five)
        with pytest.raises(Interrupted):
            train(work, ALONE, Pulse(None), stop)
    resumed = trained(work)
    assert found(resumed) == found(whole)
    assert weights(work) == weights(tmp_path / "whole")


def test_looks_after_the_checkpoint_that_is_gone_back_to_are_taken_again(project: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [3, 6]
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000006")
    assert found(trained(tmp_path)) == found(whole)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_find_what_one_does(project: Path, tmp_path: Path, sharded: bool) -> None:
    how = {"compute__data_parallel": "fsdp" if sharded else "ddp"}
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two", ranks=2, **how)
    # The same weights before the first step: equal to the bit. Then two ranks sum gradients in another order.
    assert found(two)[0] == found(one)[0]
    for (step, gmacs, ours), (other_step, other_gmacs, theirs) in zip(found(one), found(two), strict=True):
        assert (step, gmacs) == (other_step, other_gmacs)
        assert theirs == pytest.approx(ours, rel=2e-3, abs=1e-5)


def test_a_look_draws_no_random_number(project: Path, tmp_path: Path) -> None:
    states = []
    real = monitor.take_look

    def watched(*arguments: Any, **named: Any) -> dict[str, float]:
        before = torch.get_rng_state()
        metrics = real(*arguments, **named)
        states.append(torch.equal(before, torch.get_rng_state()))
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "take_look", watched)
        trained(tmp_path)
    assert states == [True] * 5
