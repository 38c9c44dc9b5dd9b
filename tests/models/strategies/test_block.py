"""V-JEPA's blocks: what is hidden are rectangles in all slots, of the paper's sizes."""

from __future__ import annotations

import pytest
import torch

from models.selection import Grid
from models.strategies import STRATEGIES, pretraining_rules, token_budget
from models.strategies.block import ASPECT, LONG_RANGE, SHORT_RANGE, _blocks, _union

GRID = Grid(8, 14, 14)


def noise(clips: int, grid: Grid = GRID) -> torch.Tensor:
    return torch.rand(clips, grid.tokens, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("count", "scale"), [SHORT_RANGE, LONG_RANGE])
def test_one_block_is_a_rectangle_of_the_papers_area_and_aspect(count: int, scale: float) -> None:
    for mask in _union(noise(64), GRID, 1, scale, 1).unflatten(1, (14, 14)):
        rows, columns = mask.any(dim=1).sum().item(), mask.any(dim=0).sum().item()
        assert mask.sum() == rows * columns, "a rectangle without holes"
        assert abs(rows * columns / GRID.places - scale) < 0.12
        assert ASPECT[0] * 0.8 <= rows / columns <= ASPECT[1] * 1.25


def test_both_ranges_hide_most_of_the_picture_and_each_gets_half_of_the_clips() -> None:
    short, long = (_union(noise(400), GRID, *kind, first).float().mean().item()
                   for kind, first in ((SHORT_RANGE, 1), (LONG_RANGE, 25)))  # fmt: skip
    assert 0.55 < short < 0.80
    assert 0.75 < long < 0.95
    hidden = _blocks(noise(400), GRID).float().mean(dim=1)
    assert 0.65 < hidden.mean() < 0.90


def test_the_same_places_are_shown_in_every_slot_and_lie_outside_the_blocks_while_there_are_some() -> None:
    clips = noise(50)
    budget = token_budget("block", GRID, 1.0, 0.1)
    split, _ = pretraining_rules("block")
    chosen = split(clips, clips, GRID, budget)
    places = (chosen.visible_BV % GRID.places).unflatten(1, (GRID.slots, -1))
    assert (places == places[:, :1]).all()
    hidden = _blocks(clips, GRID)
    free = (~hidden).sum(dim=1)
    inside = hidden.gather(1, places[:, 0]).sum(dim=1)
    assert torch.equal(inside, (places.shape[2] - free).clamp(min=0))


def test_everything_hidden_is_reconstructed() -> None:
    assert sum(token_budget("block", GRID, 0.3, 0.1)) == GRID.tokens
    assert not STRATEGIES["block"].reads_scores
