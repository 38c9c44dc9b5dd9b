"""What the publishers say stands in one record for each benchmark."""

from __future__ import annotations

import importlib
from typing import get_args

import pytest
import small_benchmark

from pipeline.errors import InputError
from pipeline.params.benchmarks import PUBLISHED, Dataset, OfficialSource


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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "data.frame_step = 0: expected greater than or equal to 1"),
        ("4", "data.frame_step = '4': expected a valid integer. Cure: YAML reads 4 as text: write 4"),
        (2.5, "data.frame_step = 2.5: expected a valid integer"),
        ({"clip_seconds": 0}, "data.frame_step.clip_seconds = 0: expected greater than or equal to 0.01"),
        ({"seconds": 2}, "data.frame_step.clip_seconds: missing"),
        ({"clip_share": 1.5}, "data.frame_step.clip_share = 1.5: expected less than or equal to 1"),
        ({"clip_share": 0.5, "rate": 25}, "data.frame_step.rate: unknown key"),
        ({"clip_seconds": 2.0, "rate": 25}, "data.frame_step.rate: unknown key"),
    ],
)
def test_a_frame_step_is_a_number_the_seconds_of_a_clip_or_its_share_of_the_video(value: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        small_benchmark.params(benchmarks__small__data__frame_step=value)
    assert said in str(error.value)
    assert "by number" not in str(error.value)
    assert "by time" not in str(error.value)
    assert "by share" not in str(error.value)


@pytest.mark.parametrize("mirror", ["http://nas:80a/x", "https://[bad/x", "nas/share", "https:///x", "ftp://nas/x"])
def test_a_mirror_that_is_no_address_is_refused_before_anything_is_fetched(mirror: str) -> None:
    with pytest.raises(ValueError, match=r"address 1 is none\. Cure: https://HOST/FOLDER, s3://BUCKET/FOLDER or file:"):
        OfficialSource(kind="official", mirrors=["file:///mnt/mirror", mirror])


def test_mirrors_are_addresses_of_servers_buckets_and_folders() -> None:
    mirrors = ["http://nas:8080/x", "https://[::1]/x", "s3://my_bucket/a b", "file:///mnt/mirror"]
    assert OfficialSource(kind="official", mirrors=mirrors).mirrors == mirrors
