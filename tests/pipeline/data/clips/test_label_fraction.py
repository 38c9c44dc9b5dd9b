"""A share of the labels: of each class alike, the same videos for every seed, more with a larger share."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.clips.dataset import share_of_each_class


class Videos:
    """Twenty videos of class 0, ten of class 1, one of class 2."""

    labels = np.array([0] * 20 + [1] * 10 + [2])
    ids = tuple(f"video-{number}" for number in range(31))
    label_sets = None

    def label(self, row: int) -> int:
        return int(self.labels[row])


def chosen(fraction: float) -> list[int]:
    return share_of_each_class(np.arange(31), Videos(), fraction).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(("fraction", "counts"), [(0.5, [10, 5, 1]), (0.1, [2, 1, 1]), (0.01, [1, 1, 1])])
def test_each_class_gives_its_share_and_never_nothing(fraction: float, counts: list[int]) -> None:
    rows = chosen(fraction)
    assert np.bincount(Videos.labels[rows]).tolist() == counts
    assert rows == sorted(set(rows))


def test_a_larger_share_holds_the_smaller_one_and_all_is_all() -> None:
    assert set(chosen(0.2)) < set(chosen(0.5)) < set(chosen(1.0))
    assert chosen(1.0) == list(range(31))
