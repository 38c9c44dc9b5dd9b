"""Windows that overlap, averaged over time and merged into segments."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.timeline.segments import Segment, cells_of, meeting_ends, merge

NAMES = ["run", "jump"]


def test_a_cell_is_the_mean_of_the_windows_that_cover_it() -> None:
    cells = cells_of(np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([[0.9, 0.1], [0.3, 0.7]]))
    assert cells.start_K.tolist() == [0, 1, 2]
    assert cells.end_K.tolist() == [1, 2, 3]
    assert cells.probability_KC == pytest.approx(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))


def test_cells_agree_with_an_average_by_hand_over_many_windows() -> None:
    rng = np.random.default_rng(0)
    start = np.arange(40) * 0.48
    end, p = start + 1.28, rng.dirichlet([1, 1, 1], 40)
    cells = cells_of(start, end, p)
    for a, b, row in zip(cells.start_K, cells.end_K, cells.probability_KC, strict=True):
        covering = p[(start <= a + 1e-4) & (end >= b - 1e-4)]
        assert row == pytest.approx(covering.mean(axis=0))
    assert cells.end_K[-1] == pytest.approx(end[-1])


def test_neighbours_of_one_class_are_one_segment_with_its_mean_probability() -> None:
    p = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.45, 0.55], [0.9, 0.1]])
    cells = cells_of(np.arange(5.0), np.arange(1.0, 6.0), p)
    assert merge(cells, NAMES, 0.5) == [
        Segment(0, 2, "run", pytest.approx(0.7)),
        Segment(2, 4, "jump", pytest.approx(0.725)),
        Segment(4, 5, "run", pytest.approx(0.9)),
    ]
    assert [s.class_name for s in merge(cells, NAMES, 0.6)] == ["run", "jump", "run"]
    assert merge(cells, NAMES, 0.6)[1] == Segment(2, 3, "jump", pytest.approx(0.9))
    assert [s.start for s in merge(cells, NAMES, 0.5, shortest=1.5)] == [0, 2]
    assert merge(cells, NAMES, 0.95) == []


def test_windows_that_follow_one_another_meet_and_others_do_not() -> None:
    first = np.array([0, 64, 128, 196])  # 16 frames, 4 apart; between the last two lies a sampled frame that is in none
    start, last = first / 25, first + 60
    end = (last + 1) / 25
    ends = meeting_ends(start, end, first, last, 16)
    assert ends.tolist() == [start[1], start[2], end[2], end[3]]
    cells = cells_of(start, ends, np.tile([0.9, 0.1], (4, 1)))
    assert [(one.start, one.end) for one in merge(cells, ["a", "b"], 0.5)] == [(0.0, end[2]), (start[3], end[3])]
    overlapping = np.array([0, 32, 64])
    assert (
        meeting_ends(overlapping / 25, (overlapping + 61) / 25, overlapping, overlapping + 60, 16).tolist()
        == ((overlapping + 61) / 25).tolist()
    )


def test_windows_apart_leave_a_gap_that_is_in_no_segment() -> None:
    cells = cells_of(np.array([0.0, 5.0]), np.array([1.0, 6.0]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert np.isnan(cells.probability_KC[1]).all()
    assert [(s.start, s.end) for s in merge(cells, NAMES, 0.5)] == [(0, 1), (5, 6)]
