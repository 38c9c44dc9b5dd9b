"""Rank, deviation and uniformity of features whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.monitor.measures.spread import deviation, rank_me, uniformity

RNG = np.random.default_rng(0)


def test_rankme_counts_directions_that_are_used_alike() -> None:
    assert rank_me(np.eye(7)) == pytest.approx(7, abs=1e-3)
    one_way = np.outer(RNG.uniform(1, 2, 50), RNG.normal(size=12))
    assert rank_me(one_way) == pytest.approx(1, abs=1e-3)


def test_rankme_is_the_exponential_of_the_entropy() -> None:
    values = np.asarray([3.0, 2.0, 1.0])
    share = values / values.sum()
    assert rank_me(np.diag(values)) == pytest.approx(float(np.exp(-(share * np.log(share)).sum())), rel=1e-5)


def test_the_deviation_is_one_where_directions_are_even_and_zero_where_there_is_one() -> None:
    assert deviation(RNG.normal(size=(4000, 32))) == pytest.approx(1, abs=0.02)
    assert deviation(np.tile(RNG.normal(size=32), (40, 1)) * RNG.uniform(1, 9, (40, 1))) == pytest.approx(0, abs=1e-6)


def test_uniformity_is_the_log_of_the_mean_pair() -> None:
    features = np.asarray([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    squared = np.asarray([2.0, 4.0, 2.0])  # right angle, opposite, right angle
    assert uniformity(features) == pytest.approx(float(np.log(np.exp(-2 * squared).mean())))
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-9)
