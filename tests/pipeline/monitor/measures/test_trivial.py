"""Predictors that know nothing, by hand."""

from __future__ import annotations

import pytest
import torch

from models.selection import Grid
from models.tokens import normalised_targets
from pipeline.monitor.measures.trivial import copy_loss, mean_loss, nearest_visible


def test_the_mean_predictor_reaches_the_variance_that_the_targets_have() -> None:
    tubelets_BRP = torch.rand(2, 3, 1536, generator=torch.Generator().manual_seed(0))
    target_BRP = normalised_targets(tubelets_BRP)
    assert mean_loss(target_BRP).tolist() == pytest.approx([511 / 512] * 2, abs=1e-4)


def test_tokens_of_one_colour_leave_nothing_to_predict() -> None:
    assert mean_loss(normalised_targets(torch.full((1, 4, 1536), 0.5))).tolist() == [0.0]


def test_the_nearest_visible_token_is_found_in_time_and_space() -> None:
    grid = Grid(slots=2, height=2, width=3)  # flat: slot 0 is 0..5, slot 1 is 6..11
    visible_BV = torch.tensor([[8, 0]])
    asked_BR = torch.tensor([[1, 2, 6, 11, 3]])
    # 1: next to 0. 2: right above 8 (one slot), two columns from 0. 6: one slot above 0, two columns from 8.
    # 11: below 8. 3: below 0.
    assert nearest_visible(visible_BV, asked_BR, grid).tolist() == [[1, 0, 1, 0, 1]]


def test_of_equally_near_tokens_the_first_counts_whatever_their_order() -> None:
    grid = Grid(1, 1, 3)
    for order in ([0, 2], [2, 0]):
        nearest = nearest_visible(torch.tensor([order]), torch.tensor([[1]]), grid)
        assert order[int(nearest)] == 0


def test_copying_costs_nothing_between_equals_and_four_times_the_variance_between_opposites() -> None:
    grid = Grid(1, 1, 2)
    token_B1P = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(1))
    shown, asked = torch.tensor([[0]]), torch.tensor([[1]])
    assert copy_loss(token_B1P, token_B1P, shown, asked, grid).tolist() == [0.0]
    expected = 4 * float(token_B1P.square().mean())
    assert copy_loss(token_B1P, -token_B1P, shown, asked, grid).tolist() == pytest.approx([expected])
