"""Frames of clips and random numbers as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sampling import (
    candidate_clip,
    candidate_slots,
    centre_clip,
    clip_start,
    epoch_order,
    normals,
    uniform_clip,
    uniforms,
    view_clips,
    view_offsets,
    view_starts,
)


def test_random_numbers_are_uniform_and_independent_of_neighbours() -> None:
    u = uniforms(3, 7, np.arange(50_000), "test", 3)
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    expected = u.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square, 19 degrees of freedom, p = 0.0007
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.02
    z = normals(3, 7, np.arange(50_000), "test", 1)
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


def test_a_sample_draws_the_same_whoever_asks() -> None:
    whole = uniforms(1, 2, np.arange(100), "crop", 5)
    assert np.array_equal(uniforms(1, 2, [42], "crop", 5)[0], whole[42])
    assert np.array_equal(uniforms(1, 2, [42], "crop", 2)[0], whole[42, :2])
    others = [
        uniforms(9, 2, [42], "crop", 5),
        uniforms(1, 3, [42], "crop", 5),
        uniforms(1, 2, [42], "flip", 5),
    ]
    assert all(not np.array_equal(other[0], whole[42]) for other in others)


def test_an_epoch_holds_each_row_once_in_its_own_order() -> None:
    first, second = epoch_order(0, 0, 1000, True), epoch_order(0, 1, 1000, True)
    assert sorted(first) == list(range(1000))
    assert (first != second).mean() > 0.99
    assert np.array_equal(epoch_order(0, 0, 5, False), np.arange(5))


@given(
    num_frames=st.integers(1, 400),
    half=st.integers(1, 16),
    step=st.integers(1, 5),
    u=st.floats(0, 1, exclude_max=True),
    oversample=st.sampled_from([1.0, 1.5, 2.0]),
    window=st.sampled_from(["grow", "fixed"]),
    by_step=st.booleans(),
)
def test_frames_exist_ascend_and_lie_on_the_grid(
    num_frames: int, half: int, step: int, u: float, oversample: float, window: str, by_step: bool
) -> None:
    grid = step if by_step else 1
    frames = 2 * half
    clip = uniform_clip(num_frames, frames, step, u, grid)
    wide = candidate_clip(num_frames, frames, step, u, oversample=oversample, window=window, grid=grid)
    views = view_clips(num_frames, frames, step, 3, grid)
    assert len(clip) == frames
    assert len(wide) == 2 * candidate_slots(frames, oversample)
    for numbers in (clip, wide[::2], *views):
        assert numbers.min() >= 0
        assert numbers.max() < num_frames
        assert (np.diff(numbers) >= 0).all()
        assert not (numbers % grid).any()
    assert wide.max() < num_frames
    if num_frames > (frames - 1) * step:
        assert (np.diff(clip) == step).all()


def test_every_start_is_equally_likely() -> None:
    u = uniforms(0, 0, np.arange(20_000), "window", 1)[:, 0]
    starts = np.asarray([clip_start(100, 16, 4, 4, float(value)) for value in u])
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == list(range(0, 40, 4))
    assert np.abs(counts / len(u) - 0.1).max() < 0.01


def test_the_window_grows_by_alpha_and_the_step_shrinks_only_where_the_video_is_too_short() -> None:
    assert candidate_slots(16, 1.5) == 12
    grown = candidate_clip(300, 16, 4, 0.5, oversample=1.5, window="grow")
    assert (np.diff(grown) == 4).all()
    assert len(grown) == 24
    short = candidate_clip(70, 16, 4, 0.5, oversample=1.5, window="grow")
    assert (short[0], short[-1]) == (0, 69)
    assert set(np.diff(short)) <= {2, 3, 4}
    fixed = candidate_clip(300, 16, 4, 0.5, oversample=1.5, window="fixed")
    assert fixed[-1] - fixed[0] <= 60
    assert (fixed[1::2] - fixed[::2] == 4).all()


def test_a_short_video_is_spread_and_repeats_frames_only_below_the_clip_length() -> None:
    assert uniform_clip(16, 16, 4, 0.9).tolist() == list(range(16))
    assert np.bincount(uniform_clip(5, 16, 4, 0.9)).min() >= 1


def test_the_validation_clip_is_the_middle() -> None:
    assert centre_clip(101, 16, 4).tolist() == list(range(20, 84, 4))


@pytest.mark.parametrize(("segments", "expected"), [(1, [20]), (2, [0, 40]), (5, [0, 10, 20, 30, 40])])
def test_views_run_from_the_first_to_the_last_place(segments: int, expected: list[int]) -> None:
    assert view_starts(101, 16, 4, segments).tolist() == expected


def test_crops_lie_along_the_long_side() -> None:
    assert view_offsets(256, 340, 3) == [(0, 0), (0, 42), (0, 84)]
    assert view_offsets(340, 256, 3) == [(0, 0), (42, 0), (84, 0)]
    assert view_offsets(256, 340, 1) == [(0, 42)]
    assert view_offsets(64, 64, 3) == [(0, 0)] * 3
