"""What the publishers say stands in one record for each benchmark."""

from __future__ import annotations

import importlib
from typing import get_args

import pytest

from pipeline.params.benchmarks import PUBLISHED, Dataset


def test_every_data_set_that_params_may_name_is_ours_or_published() -> None:
    assert set(get_args(Dataset)) == {"generated", "folder", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_benchmark_has_a_parser_and_counts_that_fit(name: str) -> None:
    published = PUBLISHED[name]
    assert callable(importlib.import_module(f"pipeline.data.annotations.{name}").read)
    assert sorted(published.train) == list(range(1, published.splits + 1))
    assert all(0 < count < published.videos for count in published.train.values())
    assert set(published.labelled) <= {"train", "val", "test"}
    assert set(published.listed) <= {str(split) for split in published.train}
