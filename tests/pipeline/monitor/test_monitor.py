"""The monitor over real trainings: it changes no bit, and says the same on any number of ranks and after a stop."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import small_benchmark
import torch

from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.monitor import monitor
from pipeline.monitor.build import pretraining_monitor
from pipeline.monitor.record import Look, MonitorRecord, read_record, write_record
from pipeline.monitor.schedule import Schedule
from pipeline.monitor.watch import NoWatcher, Pace
from pipeline.params.parts.monitor import HealthParams
from pipeline.stages import corpus, preprocess
from pipeline.system.processes import StopRequest
from pipeline.tracking import names
from pipeline.training import worker
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.engine import Engine
from pipeline.training.journal import NoSink
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


def watching(work: Path, schedule: Schedule, ranks: Ranks = ALONE) -> monitor.Monitor:
    """A monitor with neither clips nor a twin, that takes no look."""
    clips: Any = SimpleNamespace(sets=())
    voice = monitor.Voice(NoSink(), lambda text: None, lambda step: None, lambda: 0.5)
    return monitor.Monitor(
        monitor.Training(10_000, 0, 1.0), schedule, HealthParams(), clips, cast(Any, None), ranks, work, voice
    )


def test_rules_that_read_clocks_judge_the_steps_since_a_resume_or_a_rollback(tmp_path: Path) -> None:
    watcher = watching(tmp_path, Schedule(10_000, 100, 1, 0.5))
    watcher.rewind(5000, Pace(5000, 5000.0, 3500.0, 4000.0))  # 70 % of it waited for clips, as it does no longer
    watcher._measure(Pace(5500, 5150.0, 3500.0, 4150.0))
    assert watcher._facts is not None
    assert (watcher._facts.steps, watcher._facts.loader, watcher._facts.own) == (500, 0.0, (0.3,))
    watcher.rewind(5000, Pace(5000, 5000.0, 3500.0, 4000.0))
    watcher._measure(Pace(5100, 5100.0, 3590.0, 4100.0))
    assert (watcher._facts.steps, watcher._facts.loader) == (100, pytest.approx(0.9))


def test_a_resume_obeys_the_looks_that_are_asked_for_now(tmp_path: Path) -> None:
    spent = {"short": 1.0, "long": 1.0, "last_short": 1.0, "last_long": 1.0}
    before = MonitorRecord(
        10_000, 500, (Look(0, 0.0, {}, True), Look(500, 1.0, {})), next_look=10_000, next_long=True, spent=spent
    )
    write_record(tmp_path, before)
    watcher = watching(tmp_path, Schedule(10_000, 100, 1, 1.0))
    watcher.rewind(550, Pace(550, 550.0, 0.0, 0.0))
    assert (watcher.record.next_look, watcher.record.next_long) == (600, True)
    assert watcher.due(600)


def test_a_monitor_that_was_turned_off_leaves_no_record_of_before(tmp_path: Path) -> None:
    write_record(tmp_path, MonitorRecord(100, 50, (Look(0, 0.0, {}, True),), next_look=75))
    off = small_benchmark.params(pretrain__monitor__unit="off")
    unused: Any = None
    built = pretraining_monitor(
        off, unused, 1, unused, unused, None, ALONE, tmp_path, sink=NoSink(), remark=print, pulse=Pulse(None)
    )
    assert isinstance(built, NoWatcher)
    assert read_record(tmp_path) is None


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
