"""The overhead benchmark compares like with like and loses nothing; its timings are not asserted here."""

from pathlib import Path

import pytest

from pipeline.bench import overhead
from pipeline.errors import InputError


def test_every_tracked_step_is_in_the_spool() -> None:
    (row,) = overhead.command(steps=10, batch=1, stores=("none",))
    assert row["records_lost"] == 0
    assert row["steps"] == 10
    assert row["bare_ms"] > 0
    assert row["sender_cpu_ms_per_step"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("store", ["alive", "dead", "hanging"])
def test_a_store_in_any_state_costs_no_record(store: str) -> None:
    (row,) = overhead.command(steps=20, batch=1, stores=(store,))
    assert row["records_lost"] == 0


def test_the_overhead_is_taken_turn_by_turn() -> None:
    slow_machine = [0.01] * 10 + [0.02] * 10 + [0.01] * 10
    result = overhead._compared(slow_machine, [1.01 * seconds for seconds in slow_machine])
    assert result["overhead_percent"] == pytest.approx(1.0)
    assert result["p99_inflation_percent"] == pytest.approx(1.0)
    assert result["p99_inflation_percent_low"] == result["p99_inflation_percent_high"] == pytest.approx(1.0)


def test_the_interval_of_the_slowest_steps_holds_the_chance_in_them() -> None:
    bare = [0.01] * 200
    # One turn in twenty has a step of twice the time: whether it counts among the slowest percent is chance.
    tracked = [0.02] + [0.01] * 199
    result = overhead._compared(bare, tracked)
    assert result["p99_inflation_percent_low"] == 0.0
    assert 0.0 < result["p99_inflation_percent_high"] <= 100.0


def test_the_added_calls_write_what_training_writes(tmp_path: Path) -> None:
    assert overhead.added_calls(tmp_path / "s.jsonl", steps=20) > 0
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 20


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="steps = 1"):
        overhead.command(steps=1)
    with pytest.raises(InputError, match=r"stores \['asleep'\].*hanging"):
        overhead.command(stores=("asleep",))
