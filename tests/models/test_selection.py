"""Token selection: counts, disjointness, order, determinism, for any grid."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.selection import (
    Budget,
    Grid,
    TokenSplit,
    ceil_share,
    floor_share,
    rero_scores,
    slot_distances,
    top_tokens,
)
from models.strategies import STRATEGIES, pretraining_rules, token_budget
from models.unequal.adaptive import adaptive_counts, adaptive_split, adaptive_tokens

PRETRAINING = sorted(name for name, strategy in STRATEGIES.items() if strategy.split)
GRIDS = st.builds(Grid, st.integers(2, 9), st.integers(1, 7), st.integers(1, 7))
NAMES = st.sampled_from(PRETRAINING)
RATIOS = st.tuples(st.integers(1, 60), st.integers(1, 100)).map(lambda p: (p[0] / 100, p[1] / 100))


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def split_of(name: str, grid: Grid, budget: Budget, batch: int, seed: int) -> TokenSplit:
    scores, noise = uniform(2, batch, grid.tokens, seed=seed).unbind(0)
    return pretraining_rules(name)[0](scores, noise, grid, budget)


@settings(max_examples=150, deadline=None)
@given(NAMES, GRIDS, RATIOS, st.integers(1, 3), st.integers(0, 99))
def test_indices_are_disjoint_in_range_and_of_the_exact_count(
    name: str, grid: Grid, ratios: tuple[float, float], batch: int, seed: int
) -> None:
    visible_ratio, keep_ratio = ratios
    try:
        budget = token_budget(name, grid, keep_ratio, visible_ratio)
    except ValueError:
        return
    split = split_of(name, grid, budget, batch, seed)
    assert split.visible_BV.shape == (batch, budget.visible)
    assert split.reconstruct_BR.shape == (batch, budget.reconstruct)
    for row in torch.cat([split.visible_BV, split.reconstruct_BR], dim=1).tolist():
        assert len(set(row)) == len(row)
        assert min(row) >= 0
        assert max(row) < grid.tokens


@settings(max_examples=60, deadline=None)
@given(NAMES, GRIDS, st.integers(2, 4), st.integers(0, 99))
def test_permuting_the_clips_permutes_the_result(name: str, grid: Grid, batch: int, seed: int) -> None:
    try:
        budget = token_budget(name, grid, 0.5, 0.2)
    except ValueError:
        return
    scores, noise = uniform(2, batch, grid.tokens, seed=seed).unbind(0)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    straight = pretraining_rules(name)[0](scores, noise, grid, budget)
    permuted = pretraining_rules(name)[0](scores[order], noise[order], grid, budget)
    for whole, part in zip(straight[:2], permuted[:2], strict=True):
        assert isinstance(whole, Tensor)
        assert torch.equal(whole[order].sort(1).values, part.sort(1).values)


@pytest.mark.parametrize("name", PRETRAINING)
def test_equal_noise_gives_equal_indices_and_other_noise_gives_others(name: str) -> None:
    grid = Grid(8, 6, 6)
    budget = token_budget(name, grid, 0.5, 0.2)
    first, again, other = (split_of(name, grid, budget, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first.visible_BV, again.visible_BV)
    assert torch.equal(first.reconstruct_BR, again.reconstruct_BR)
    assert not torch.equal(first.visible_BV, other.visible_BV)


@settings(max_examples=60, deadline=None)
@given(NAMES, GRIDS, st.integers(0, 99))
def test_a_static_clip_still_returns_the_counts(name: str, grid: Grid, seed: int) -> None:
    try:
        budget = token_budget(name, grid, 0.5, 0.2)
    except ValueError:
        return
    scores = rero_scores(torch.ones(2, grid.tokens, 5), grid.slots)
    assert scores.eq(0).all()
    split = pretraining_rules(name)[0](scores, uniform(2, grid.tokens, seed=seed), grid, budget)
    assert all(len(set(row)) == sum(budget) for row in torch.cat(split[:2], dim=1).tolist())


def test_the_scores_are_distances_to_the_slot_before_and_slot_0_takes_those_of_slot_1() -> None:
    embedded = uniform(2, 4, 3, 5, seed=3)
    distance = slot_distances(embedded)
    assert distance.shape == (2, 4, 3)
    for slot in (1, 2, 3):
        expected = (embedded[:, slot] - embedded[:, slot - 1]).square().sum(-1).sqrt()
        torch.testing.assert_close(distance[:, slot], expected)
    assert torch.equal(distance[:, 0], distance[:, 1])


def test_scores_are_fp32_and_carry_no_gradient_also_in_bf16() -> None:
    embedded = uniform(1, 8, 5, seed=0).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores = rero_scores(embedded, 2)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad


def test_one_slot_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"1 slot.*at least 2.*Cure: give 4 frames"):
        slot_distances(torch.zeros(1, 1, 4, 8))


def test_everest_keeps_the_highest_scores_and_shuffles_only_those() -> None:
    grid, budget = Grid(8, 14, 14), Budget(156, 314)
    scores, noise = uniform(2, 3, grid.tokens, seed=5).unbind(0)
    split = pretraining_rules("everest")[0](scores, noise, grid, budget)
    kept = torch.cat(split[:2], dim=1).sort(1).values
    assert torch.equal(kept, scores.topk(470, dim=1).indices.sort(1).values)
    # Shown tokens are a fair sample of the kept ones, not the best of them.
    shown, hidden = scores.gather(1, split.visible_BV).mean(), scores.gather(1, split.reconstruct_BR).mean()
    assert abs(float(shown - hidden)) < 0.02


def test_tube_shows_the_same_places_in_every_slot() -> None:
    grid = Grid(8, 14, 14)
    split = split_of("tube", grid, token_budget("tube", grid, 1.0, 0.1), 2, 0)
    places = (split.visible_BV % 196).view(2, 8, 20)
    assert (places == places[:, :1]).all()
    assert torch.equal(torch.cat(split[:2], dim=1).sort(1).values, torch.arange(1568).expand(2, -1))


def test_running_cell_reconstructs_every_cell_and_runs_on_with_time() -> None:
    grid = Grid(8, 14, 14)
    budget = token_budget("running_cell", grid, 0.35, 0.1)
    split = split_of("running_cell", grid, budget, 1, 0)
    chosen = torch.zeros(1568, dtype=torch.bool)
    chosen[split.reconstruct_BR[0]] = True
    free = torch.ones(1568, dtype=torch.bool)
    free[split.visible_BV[0]] = False
    corner = torch.stack(
        [chosen.view(8, 7, 2, 7, 2)[:, :, y, :, x].sum((1, 2)) for y, x in ((0, 0), (0, 1), (1, 1), (1, 0))]
    )
    busiest = corner.argmax(0).tolist()
    assert all((later - earlier) % 4 == 1 for earlier, later in pairwise(busiest))
    first_turn = free.view(8, 7, 2, 7, 2)
    for slot, turn in enumerate(busiest):
        y, x = ((0, 0), (0, 1), (1, 1), (1, 0))[turn]
        assert int(corner[turn, slot]) == int(first_turn[slot, :, y, :, x].sum())


@pytest.mark.parametrize(
    ("strategy", "keep", "visible", "expected"),
    [
        ("everest", 0.3, 0.1, (156, 314)),
        ("tube", 1.0, 0.1, (160, 1408)),
        ("tube", 1.0, 0.25, (392, 1176)),
        ("random", 1.0, 0.1, (156, 1412)),
        ("running_cell", 0.5, 0.1, (160, 624)),
    ],
)
def test_the_budgets_are_the_papers(strategy: str, keep: float, visible: float, expected: tuple[int, int]) -> None:
    assert token_budget(strategy, Grid(8, 14, 14), keep, visible) == expected


def test_shares_are_taken_on_exact_decimals() -> None:
    assert int((1 - 0.9) * 10) == 0
    assert floor_share(0.1, 10) == 1
    assert floor_share(0.29, 100) == 29
    assert ceil_share(0.1, 10) == 1
    assert floor_share(0.6, 1568) == 940


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evrest", 0.3, 0.1), "expected one of .*everest, .*tube"),
        (("everest", 0.1, 0.3), "both must be positive"),
        (("everest", 0.3, 0.0), "above 0 and at most 1"),
        (("everest", 1.3, 0.1), "above 0 and at most 1"),
        (("tube", 0.3, 1.0), "leaves 0 to reconstruct"),
    ],
)
def test_impossible_budgets_are_refused_with_a_cure(arguments: tuple[str, float, float], message: str) -> None:
    name, keep, visible = arguments
    with pytest.raises(ValueError, match=f"{message}.*Cure:"):
        token_budget(name, Grid(8, 14, 14), keep, visible)


def test_keeping_no_or_too_many_tokens_is_refused() -> None:
    for count in (0, 9):
        with pytest.raises(ValueError, match=f"num_keep = {count} of 8 tokens.*Cure"):
            top_tokens(torch.zeros(1, 8), count)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 100), st.integers(0, 99))
def test_an_adaptive_budget_is_the_smallest_set_that_holds_the_share(
    tokens: int, batch: int, percent: int, seed: int
) -> None:
    scores, share = uniform(batch, tokens, seed=seed), percent / 100
    for row, count in zip(scores, adaptive_counts(scores, share, least=1).tolist(), strict=True):
        ordered = row.double().sort(descending=True).values
        assert ordered[:count].sum() >= share * ordered.sum() - 1e-9
        assert ordered[: count - 1].sum() < share * ordered.sum() + 1e-9


def test_an_adaptive_split_is_disjoint_and_marks_its_padding() -> None:
    scores = torch.cat([uniform(1, 50, seed=0), torch.zeros(1, 50), torch.eye(50)[:1]])
    split = adaptive_split(scores, uniform(3, 50, seed=1), share=0.5, visible_of_kept=1 / 3)
    assert split.visible_rows is not None
    assert split.reconstruct_rows is not None
    counts = adaptive_counts(scores, 0.5).tolist()
    assert counts[0] > 10
    assert counts[1:] == [2, 2]  # a still clip and one with a single moving token keep the least
    for i, count in enumerate(counts):
        real = split.visible_BV[i][split.visible_rows.valid()[i]].tolist()
        real += split.reconstruct_BR[i][split.reconstruct_rows.valid()[i]].tolist()
        assert len(set(real)) == len(real) == count
    index, rows = adaptive_tokens(scores, 0.5)
    assert rows.valid().sum(1).tolist() == [counts[0], 1, 1]
    assert index[2, 0] == 0


def test_a_share_out_of_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score_share = 1.5.*Cure"):
        adaptive_counts(torch.zeros(1, 4), 1.5)
