"""Which videos pre-training sees, and what makes it stale."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_training import ready, small_benchmark

from pipeline import layout
from pipeline.data.cache.read import Cache
from pipeline.stages import corpus, preprocess


def test_only_training_videos_are_listed_and_another_cache_changes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready()
    path = layout.corpus_file("small")
    first, table = path.read_bytes(), pq.read_table(path)
    cache = Cache.open(layout.cache_dir("small"))
    assert table.column("video_id").to_pylist() == [cache.ids[row] for row in cache.rows("train")]

    corpus.run(params, "small")
    assert path.read_bytes() == first

    preprocess.run(small_benchmark.params(preprocess__store="jpeg"), "small")
    corpus.run(params, "small")
    assert path.read_bytes() != first
    assert pq.read_table(path).equals(table)
