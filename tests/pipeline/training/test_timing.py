"""The time of a step is split into its parts, always, and the parts say where it went."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.distributed.groups import start
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import InputError
from pipeline.system.processes import StopRequest
from pipeline.training.engine import Engine
from pipeline.training.engine.state import Spent
from pipeline.training.journal import Journal, Progress
from pipeline.training.measured import measured, sentence, shares
from pipeline.training.timing import Marks, NoClock, Trace, trace_steps
from tests.faults import rank_trials, toy

CPU = torch.device("cpu")


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int | None, dict[str, float]]] = []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.points.append((step, values))


class Ticks:
    """A clock that moves by one at each mark."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        self.now += 1
        return self.now

    def seconds(self, before: float, after: float) -> float:
        return after - before


def _engine(work: Path, sink: Heard, every: int = 1, clock: object = None, **wish: object) -> Engine:
    work.mkdir(parents=True, exist_ok=True)
    wish = {"epochs": 2, "rank": 0, **wish}
    ranks = start("cpu")
    return Engine(
        toy.ToyTask(wish, ranks, work), toy.settings(wish), ranks, work, journal=Journal(None, sink, every),
        pulse=Pulse(None), stop=StopRequest(), progress=Progress("", False), clock=clock,
    )  # fmt: skip


def test_parts_are_the_times_between_marks_summed_over_micro_steps() -> None:
    marks = Marks(Ticks())
    for part in ("loading", "forward", "backward", "loading", "forward", "backward", "updating", "exchange"):
        marks.begin(part)
    marks.begin("updating")
    assert marks.seconds() == {"loader": 2, "forward": 2, "backward": 2, "optimizer": 1, "communication": 1}


def test_a_slow_loader_and_a_slow_forward_are_told_apart(tmp_path: Path) -> None:
    engine = _engine(tmp_path, Heard(), seconds=0.02)
    batches = engine.task.loader.epoch

    def slowly(epoch: int, start_micro_step: int = 0):  # type: ignore[no-untyped-def]
        for batch in batches(epoch, start_micro_step):
            time.sleep(0.01)
            yield batch

    engine.task.loader.epoch = slowly  # type: ignore[method-assign]
    engine.run()
    parts = shares(engine.spent, 0.0, 1)
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts["forward"] > parts["loader"] > parts["backward"] + parts["optimizer"] + parts["other"]


def test_the_first_step_after_a_start_is_counted_apart(tmp_path: Path) -> None:
    engine = _engine(tmp_path, Heard())
    engine.run()
    assert engine.spent.steps == engine.total_steps - 1
    assert engine.spent.clips == 8 * engine.spent.steps
    assert engine.spent.first > 0


def test_the_store_hears_the_mean_of_each_part_since_it_heard_last(tmp_path: Path) -> None:
    heard = Heard()
    _engine(tmp_path, heard, every=4, clock=Ticks()).run()
    assert [step for step, _ in heard.points] == [4, 8, 12, 16]
    names = {
        f"step/{part}_seconds" for part in ("loader", "forward", "backward", "communication", "optimizer", "whole")
    }
    assert all(names <= values.keys() for _, values in heard.points)
    assert all(values["step/forward_seconds"] == 1.0 for _, values in heard.points)


def test_turned_off_it_measures_nothing(tmp_path: Path) -> None:
    engine = _engine(tmp_path, Heard(), clock=NoClock())
    engine.run()
    assert engine.spent.forward == engine.spent.loader == 0.0
    assert engine.spent.train > 0


def test_waiting_for_other_ranks_moves_from_backward_to_communication() -> None:
    spent = Spent(train=10.0, loader=1.0, forward=2.0, backward=4.0, communication=0.5, optimizer=1.0, steps=5)
    parts = shares(spent, waiting=0.5, accumulate=2)
    assert parts["backward"] == pytest.approx(0.3)
    assert parts["communication"] == pytest.approx(0.15)
    assert parts["other"] == pytest.approx(0.15)
    assert "communication" not in shares(spent, waiting=None, accumulate=1)


def test_metrics_and_the_closing_sentence_carry_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.measured.cost_of", lambda task: task.cost)  # the toy's model is no backbone
    engine = _engine(tmp_path, Heard())
    engine.run()
    task = SimpleNamespace(cost=SimpleNamespace(multiply_adds=10**9, encoder_tokens=7), passes=3.0)
    metrics = measured(engine, task, engine.ranks)  # type: ignore[arg-type]
    split = [name for name in metrics if name.endswith("_fraction") and "checkpoint" not in name]
    assert len(split) == 6
    assert sum(metrics[name] for name in split) == pytest.approx(1.0)
    assert "efficiency/energy_wh" not in metrics
    text = sentence("toy", metrics)
    assert "energy not measured: no counter that may be read" in text
    assert all(part in text for part in ("loader", "forward", "backward", "communication", "optimizer"))
    assert "energy 0.500 Wh" in sentence("toy", {**metrics, "efficiency/energy_wh": 0.5})


def test_two_ranks_know_how_long_they_waited_for_each_other(tmp_path: Path) -> None:
    rank_trials.forked(tmp_path, 2, {"epochs": 3, "width": 2048})
    share = float((tmp_path / "waiting.txt").read_text())
    assert 0.0 < share < 1.0


def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_TRACE_STEPS", "2")
    with Trace(tmp_path / "t", trace_steps(), CPU) as trace:
        for _ in range(8):
            torch.mm(torch.ones(64, 64), torch.ones(64, 64))
            trace.step()
    text = (tmp_path / "t" / "trace.json").read_text()
    assert text.count('"name": "aten::mm"') == 2
    assert "aten::mm" in (tmp_path / "t" / "operators.txt").read_text()


def test_a_training_too_short_for_a_trace_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Trace(tmp_path / "t", 2, CPU) as trace:
        trace.step()
    assert not (tmp_path / "t").exists()
    assert "takes more than 3 steps" in caplog.text


def test_without_a_wish_there_is_no_trace_and_a_wrong_wish_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Trace(tmp_path / "t", trace_steps(), CPU) as trace:
        trace.step()
    assert not (tmp_path / "t").exists()
    monkeypatch.setenv("EVEREST_TRACE_STEPS", "five")
    with pytest.raises(InputError, match=r"EVEREST_TRACE_STEPS = 'five'.*Cure"):
        trace_steps()
