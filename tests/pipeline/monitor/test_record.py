"""The monitor's record: written whole, read back equal, absent where nobody looked."""

from __future__ import annotations

from pathlib import Path

from pipeline.monitor.record import Alarm, Look, MonitorRecord, read_record, write_record

PLATEAU = Alarm("plateau", 40, "the loss no longer falls", "it has converged", "stop here")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = MonitorRecord(
        steps=100,
        checked=50,
        looks=(Look(0, 0.0, {"a": 1.0, "b": 2.0}), Look(50, 12.5, {"a": 0.5})),
        alarms=(PLATEAU,),
        seconds=1.5,
        cost=0.01,
        next_look=75,
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_there_is_no_record_before_the_first_look(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


def test_the_newest_value_of_each_metric_and_its_curve_are_told() -> None:
    record = MonitorRecord(steps=9, looks=(Look(0, 0.0, {"a": 1.0, "b": 2.0}), Look(5, 2.5, {"a": 0.5})))
    assert record.newest == {"a": 0.5, "b": 2.0}
    assert record.curve("a") == [(0, 0.0, 1.0), (5, 2.5, 0.5)]
    assert record.curve("b") == [(0, 0.0, 2.0)]


def test_the_verdict_names_what_holds_and_not_what_has_passed() -> None:
    assert MonitorRecord(steps=9).verdict == "healthy"
    past = Alarm("diverging", 10, "it rises", "the learning rate", "lower it", holds=False)
    assert MonitorRecord(steps=9, alarms=(past, PLATEAU)).verdict == "plateau"
    assert PLATEAU.sentence == "the loss no longer falls (since step 40). Cause: it has converged. Cure: stop here."
