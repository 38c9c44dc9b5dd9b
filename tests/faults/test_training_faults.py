"""Rows 1 to 10 and 20 of the faults that training survives, with their full counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import checkpoint_trials, rank_trials

pytestmark = pytest.mark.slow
Record = Callable[..., None]


def test_a_writer_that_is_killed_leaves_readable_checkpoints(tmp_path: Path, record: Record) -> None:
    record(*checkpoint_trials.kill_while_writing(tmp_path, 50))


@pytest.mark.parametrize(("ranks", "accumulate", "last"), [(1, 1, 18), (2, 2, 36)])
def test_a_stop_before_every_micro_step_resumes_to_the_bit(
    tmp_path: Path, record: Record, ranks: int, accumulate: int, last: int
) -> None:
    record(*rank_trials.stop_and_resume(tmp_path, ranks, accumulate, list(range(1, last))))


def test_killed_ranks_continue_on_the_same_curve(tmp_path: Path, record: Record) -> None:
    record(*rank_trials.crash_and_resume(tmp_path, list(range(7, 35, 3))))


def test_other_numbers_of_ranks_see_every_sample_once_an_epoch(tmp_path: Path, record: Record) -> None:
    record(*rank_trials.other_ranks(tmp_path, [(2, 1), (1, 2), (4, 2), (2, 4)]))


def test_damaged_bytes_are_noticed(tmp_path: Path, record: Record) -> None:
    record(*checkpoint_trials.damage(tmp_path / "checkpoints", 200))


def test_missing_bytes_are_noticed(tmp_path: Path, record: Record) -> None:
    record(*checkpoint_trials.incomplete(tmp_path / "checkpoints", 90))


def test_a_crash_while_old_checkpoints_are_pruned_leaves_two(tmp_path: Path, record: Record) -> None:
    record(*checkpoint_trials.crash_while_pruning(tmp_path / "checkpoints", 50))


def test_each_stopping_signal_saves_at_the_step_boundary(tmp_path: Path, record: Record) -> None:
    record(*rank_trials.signals(tmp_path))


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_ranks_agree_on_a_nan(tmp_path: Path, record: Record, policy: str) -> None:
    record(*rank_trials.nonfinite(tmp_path, policy))


@pytest.mark.parametrize("what", ["hang_at", "freeze_at", "kill_at"])
def test_a_rank_that_stalls_is_named_and_the_run_finishes(tmp_path: Path, record: Record, what: str) -> None:
    record(*rank_trials.stalls(tmp_path, what))


def test_files_that_carry_code_are_refused_unread(tmp_path: Path, record: Record) -> None:
    record(*checkpoint_trials.code_in_files(tmp_path))
