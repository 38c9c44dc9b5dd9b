"""Choice of time slots: probabilities, top-up, and one answer for equal maps whoever holds them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from models.frames import (
    choose_slots,
    draw_slots,
    num_candidates,
    slot_counts,
    slot_frames,
)
from models.selection import slot_distances


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probability(counts: list[int], chosen: frozenset[int]) -> float:
    """That successive draws without replacement, each proportional to the counts left, end in this set."""
    total = 0.0
    for order in permutations(chosen):
        left, p = float(sum(counts)), 1.0
        for slot in order:
            p *= counts[slot] / left
            left -= counts[slot]
        total += p
    return total


def test_slots_are_drawn_with_the_stated_probabilities() -> None:
    counts, draws = [1, 2, 3, 6, 12], 40_000
    chosen = draw_slots(torch.tensor([counts]).expand(draws, -1), 3, torch.rand(draws, 5, generator=generator()))
    sets, observed = chosen.unique(dim=0, return_counts=True)
    expected = [draws * probability(counts, frozenset(row)) for row in sets.tolist()]
    assert sum(expected) == pytest.approx(draws)
    assert chisquare(observed.numpy(), expected).pvalue > 1e-3


def test_slots_without_tokens_top_up_uniformly_and_only_then() -> None:
    draws = 20_000
    counts = torch.tensor([[0, 5, 0, 1, 0, 0]]).expand(draws, -1)
    noise = torch.rand(draws, 6, generator=generator(1))
    assert set(map(tuple, draw_slots(counts, 2, noise).tolist())) == {(1, 3)}
    three = draw_slots(counts, 3, noise)
    extra = three[(three != 1) & (three != 3)]
    assert chisquare(extra.bincount(minlength=6)[[0, 2, 4, 5]].numpy()).pvalue > 1e-3


def test_a_static_video_draws_its_slots_uniformly() -> None:
    draws = 4_000
    chosen = choose_slots(torch.zeros(draws, 12, 4), 8, 0.3, torch.rand(draws, 12, generator=generator()))
    assert chosen.shape == (draws, 8)
    assert (chosen[:, 1:] > chosen[:, :-1]).all()
    assert chisquare(chosen.flatten().bincount(minlength=12).numpy()).pvalue > 1e-3


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 14), st.integers(1, 20), st.integers(1, 100), st.integers(0, 99))
def test_counts_sum_to_the_kept_tokens_and_choices_are_distinct_and_sorted(
    slots: int, places: int, percent: int, seed: int
) -> None:
    maps = torch.rand(2, slots, places, generator=generator(seed))
    counts = slot_counts(maps, percent / 100)
    assert counts.sum(1).tolist() == [max(1, percent * slots * places // 100)] * 2
    assert int(counts.max()) <= places
    chosen = draw_slots(counts, max(1, slots // 2), torch.rand(2, slots, generator=generator(seed)))
    assert (chosen[:, 1:] > chosen[:, :-1]).all()


def test_online_and_cached_maps_give_the_same_choice() -> None:
    """Online: maps of tubelets in memory. Cached: the same maps, stored in half precision and read back."""
    tubelets = torch.rand(4, 12, 16, 1536, generator=generator(2)) * torch.rand(4, 12, 16, 1, generator=generator(3))
    noise = torch.rand(4, 12, generator=generator(4))
    online = slot_distances(tubelets).half()
    cached = torch.from_numpy(online.numpy().copy())
    assert torch.equal(choose_slots(online, 8, 0.3, noise), choose_slots(cached, 8, 0.3, noise))


def test_the_first_slot_of_a_window_ignores_its_distance_to_what_lies_before_it() -> None:
    maps = torch.rand(1, 6, 10, generator=generator(5))
    cut = maps.clone()
    cut[:, 0] = 1000
    assert torch.equal(slot_counts(maps, 0.3), slot_counts(cut, 0.3))


def test_moving_slots_are_chosen_over_still_ones() -> None:
    maps = torch.zeros(200, 12, 196)
    maps[:, 4:8] = 1 + torch.rand(200, 4, 196, generator=generator(6))
    chosen = choose_slots(maps, 4, 0.3, torch.rand(200, 12, generator=generator(7)))
    assert (chosen == torch.arange(4, 8)).all()


def test_the_two_frames_of_a_slot_stay_together() -> None:
    assert slot_frames(torch.tensor([[0, 3, 5]])).tolist() == [[0, 1, 6, 7, 10, 11]]


def test_the_papers_oversampling_gives_twelve_candidates() -> None:
    assert num_candidates(8, 1.5) == 12
    assert num_candidates(5, 1.5) == 8
    with pytest.raises(ValueError, match=r"oversample = 0.5.*Cure: 1.5"):
        num_candidates(8, 0.5)


def test_wrong_shapes_are_refused_with_a_cure() -> None:
    with pytest.raises(ValueError, match=r"shape \(12, 196\).*Cure"):
        slot_counts(torch.zeros(12, 196), 0.3)
    with pytest.raises(ValueError, match=r"13 slots wanted of 12.*Cure"):
        draw_slots(torch.ones(1, 12), 13, torch.rand(1, 12))
    with pytest.raises(ValueError, match="one number per candidate"):
        draw_slots(torch.ones(1, 12), 8, torch.rand(12))
