"""A training that ends when validations no longer improve: at the same step after a stop and on any number of ranks."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.system.processes import StopRequest
from pipeline.tracking import names
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from tests.faults import rank_trials, toy

#: Top-1 scores after each epoch of 8 steps: the best is the third, two worse ones follow.
SCORES = (0.2, 0.4, 0.6, 0.6, 0.5, 0.9, 0.9, 0.9)
ENDS = 5 * 8
ONE = Ranks(0, 1, 0, torch.device("cpu"))


class Scored(toy.ToyTask):
    """The toy task with a score for each epoch, summed over ranks as a real one is."""

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        share = torch.tensor(SCORES[epoch] / self.ranks.world, dtype=torch.float64)
        return {names.VAL_TOP1: float(self.ranks.sum_(share)), names.VAL_LOSS: 1.0 - epoch / 10}


def _engine(
    work: Path, ranks: Ranks = ONE, stop: StopRequest | None = None, after_step: Callable[[], None] = lambda: None,
    **wish: Any,
) -> Engine:  # fmt: skip
    wish = {"epochs": 8, "patience": 2, "checkpoint_every_steps": 4, **wish}
    work.mkdir(exist_ok=True)
    journal = Journal(work / "history.csv" if ranks.main else None, NoSink())
    return Engine(
        Scored(wish, ranks, work), toy.settings(wish), ranks, work, journal=journal, pulse=Pulse(None),
        stop=stop or StopRequest(), progress=Progress("", False), after_step=after_step,
    )  # fmt: skip


def _history(work: Path) -> list[tuple[str, ...]]:
    with (work / "history.csv").open(newline="") as file:
        return [tuple(value for key, value in row.items() if key != "seconds") for row in csv.DictReader(file)]


def test_it_ends_after_as_many_validations_without_a_better_score(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "two")
    engine.run()
    assert (engine.step, engine.watched.best, engine.watched.waited) == (ENDS, 0.6, 2)
    longer = _engine(tmp_path / "four", patience=4)
    longer.run()
    assert longer.step == 64
    best = _engine(tmp_path / "best", select="best")
    best.run()
    assert best.checkpoints.best() == 3 * 8


@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("stop_at", [7, 8, 32, 40])
def test_a_stop_at_any_step_changes_no_bit_and_no_row(tmp_path: Path, stop_at: int, select: str) -> None:
    """At 8, 32 and 40 the state is saved between an epoch's last step and its validation."""
    whole = _engine(tmp_path / "whole", select=select)
    whole.run()
    stop = StopRequest()

    def at_step() -> None:
        if first.step == stop_at - 1:
            stop.signal = "SIGTERM"

    first = _engine(tmp_path / "work", stop=stop, after_step=at_step, select=select)
    with pytest.raises(Interrupted):
        first.run()
    assert first.step == stop_at
    again = _engine(tmp_path / "work", select=select)
    again.run()
    assert (again.step, again.watched, again.journal.scores) == (ENDS, whole.watched, whole.journal.scores)
    assert _history(tmp_path / "work") == _history(tmp_path / "whole")
    assert rank_trials.differing(whole.result(), again.result()) == 0


def test_a_finished_training_that_starts_again_ends_at_once_with_its_scores(tmp_path: Path) -> None:
    _engine(tmp_path, select="best").run()
    again = _engine(tmp_path, select="best")
    again.run()
    assert (again.step, again.spent.steps) == (ENDS, again.spent.steps)
    assert again.journal.scores[names.VAL_TOP1] == 0.5


def _train(work: Path, ranks: Ranks, _pulse: Pulse, _stop: StopRequest) -> None:
    engine = _engine(work, ranks)
    engine.run()
    (work / f"ended-{ranks.rank}").write_text(str(engine.step))


def test_two_ranks_end_at_the_step_of_one(tmp_path: Path) -> None:
    ends = rank_trials.forked(tmp_path, 2, train=_train)
    assert [end.state for end in ends] == ["done", "done"]
    assert {(tmp_path / f"ended-{rank}").read_text() for rank in (0, 1)} == {str(ENDS)}
