"""Cutting, positions, targets and the refusal of bad clips."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.selection import Grid
from models.tokens import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_clip,
    check_pixels,
    cut_tubelets,
    join_tubelets,
    normalised_targets,
    predicted_pixels,
    seen_clip,
    sinusoid_table,
    take,
    tubelets_at,
)


def clip(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4))
def test_joining_is_the_inverse_of_cutting(batch: int, slots: int, height: int, width: int) -> None:
    x = clip(batch, 3, slots * 2, height * 16, width * 16)
    grid = check_clip(x, 16, 2)
    assert grid == Grid(slots, height, width)
    assert torch.equal(join_tubelets(cut_tubelets(x, grid, 16, 2), grid, 16, 2), x)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_tubelets_at_indices_are_those_of_the_cut(batch: int, slots: int, height: int, width: int, seed: int) -> None:
    x, grid = clip(batch, 3, slots * 2, height * 16, width * 16, seed=seed), Grid(slots, height, width)
    index = torch.randint(grid.tokens, (batch, 7), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(tubelets_at(x, grid, index, 16, 2), take(cut_tubelets(x, grid, 16, 2), index))


def test_a_cut_and_a_linear_map_are_the_3d_convolution() -> None:
    x, weight, bias = clip(2, 3, 6, 32, 48), clip(8, 3, 2, 16, 16, seed=1), clip(8, seed=2)
    convolved = F.conv3d(x, weight, bias, stride=(2, 16, 16)).flatten(2).transpose(1, 2)
    linear = F.linear(cut_tubelets(x, Grid(3, 2, 3), 16, 2), weight.flatten(1), bias)
    torch.testing.assert_close(linear, convolved, rtol=1e-4, atol=1e-3)


def test_the_position_table_is_the_published_formula() -> None:
    table = sinusoid_table(1568, 384)
    assert table.dtype == torch.float32
    for position, column in ((0, 0), (0, 1), (7, 4), (1567, 383)):
        angle = torch.tensor(position / 10000 ** (2 * (column // 2) / 384), dtype=torch.float64)
        expected = angle.sin() if column % 2 == 0 else angle.cos()
        assert float(table[position, column]) == pytest.approx(float(expected), abs=1e-7)


def test_a_longer_table_begins_with_the_shorter_one() -> None:
    assert torch.equal(sinusoid_table(100, 64)[:40], sinusoid_table(40, 64))


def test_taking_by_index_is_gathering_and_so_is_its_gradient() -> None:
    x = clip(3, 10, 4).requires_grad_()
    index = torch.stack([torch.randperm(10, generator=torch.Generator().manual_seed(i))[:6] for i in range(3)])
    taken = take(x, index)
    expected = x.gather(1, index[..., None].expand(-1, -1, 4))
    assert torch.equal(taken, expected)
    weight = clip(3, 6, 4, seed=3)
    ours = torch.autograd.grad((taken * weight).sum(), x)[0]
    theirs = torch.autograd.grad((expected * weight).sum(), x)[0]
    assert torch.equal(ours, theirs)


def test_targets_are_unnormalised_pixels_standardised_per_channel_with_channels_last() -> None:
    x = clip(1, 3, 4, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (x * std + mean)[0, :, 2:4].flatten(1).T  # the second tubelet, [512, 3]
    expected = (pixels - pixels.mean(0)) / (pixels.var(0, unbiased=True).sqrt() + 1e-6)
    target = normalised_targets(cut_tubelets(x, Grid(2, 1, 1), 16, 2))[0, 1]
    torch.testing.assert_close(target.view(512, 3), expected, rtol=1e-4, atol=1e-4)


def test_a_perfect_prediction_gives_back_the_pixels() -> None:
    tubelets = clip(1, 3, 1536) * 0.3
    mean, std = (torch.tensor(v)[:, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (tubelets.unflatten(2, (3, 512)) * std + mean).clamp(0, 1).flatten(2)
    torch.testing.assert_close(predicted_pixels(normalised_targets(tubelets), tubelets), pixels, rtol=0, atol=1e-5)


def test_a_token_of_one_colour_has_a_finite_target() -> None:
    assert normalised_targets(torch.full((1, 1, 1536), 0.3)).abs().max() < 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 64, 64), r"expected 5 dimensions \[B, 3, T, H, W\]"),
        ((1, 16, 3, 64, 64), r"looks like \[B, T, C, H, W\]: clip.permute\(0, 2, 1, 3, 4\)"),
        ((1, 16, 64, 64, 3), r"looks like \[B, T, H, W, C\]: clip.permute\(0, 4, 1, 2, 3\)"),
        ((1, 4, 16, 64, 64), "has 4 channels"),
        ((1, 3, 16, 60, 70), r"60x70 pixels do not divide into 16x16 patches. Cure: resize to 64x64"),
        ((1, 3, 15, 64, 64), "15 frames do not divide into tubelets of 2. Cure: 14 or 16 frames"),
        ((1, 3, 2, 64, 64), r"1 time slot\(s\), expected at least 2"),
    ],
)
def test_a_clip_of_the_wrong_shape_is_refused_with_a_cure(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_clip(torch.zeros(shape), 16, 2)
    assert str(shape) in str(caught.value)
    assert "Cure" in str(caught.value)


def test_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.uint8, expected floats.*Cure"):
        check_clip(torch.zeros(1, 3, 16, 64, 64, dtype=torch.uint8), 16, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_numbers_are_refused_naming_the_clip(value: float) -> None:
    x = clip(2, 3, 4, 16, 16)
    check_pixels(x)
    x[1, 0, 0, 0, :3] = value
    with pytest.raises(ValueError, match=r"NaN or infinite pixels \(per clip: \[0, 3\]\).*Cure"):
        check_pixels(x)


def test_differences_are_of_grey_frames_in_all_channels_and_the_first_is_zero() -> None:
    x = clip(2, 3, 4, 16, 16)
    seen = seen_clip(x, "difference")
    assert seen.shape == x.shape
    assert not seen[:, :, 0].any()
    grey = x.mean(dim=1)
    for channel in range(3):
        torch.testing.assert_close(seen[:, channel, 1:], 4 * (grey[:, 1:] - grey[:, :-1]))
    assert not seen_clip(x[:, :, :1].expand(-1, -1, 4, -1, -1), "difference").any()
    assert seen_clip(x, "rgb") is x
