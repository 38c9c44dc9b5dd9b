from __future__ import annotations

from pathlib import Path

import pytest
import sample_videos

from pipeline.data.ingest.ingest import ingest
from pipeline.errors import InputError
from pipeline.params import IngestParams


def many(folder: Path, count: int) -> list[str]:
    for number in range(count):
        sample_videos.write(folder / f"{number:03d}.mp4", seed=number)
    return [f"{number:03d}.mp4" for number in range(count)]


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, limits: IngestParams) -> None:
    pytest.importorskip("distributed")
    sample_videos.write(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"compute\.cluster = 'nowhere://x': no scheduler answers"):
        ingest(tmp_path, ["a.mp4"], limits, cluster="nowhere://x")


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_measurements(tmp_path: Path, limits: IngestParams) -> None:
    distributed = pytest.importorskip("distributed")
    names = many(tmp_path / "a", 150)
    (tmp_path / "a" / "empty.mp4").touch()
    names.append("empty.mp4")
    here = ingest(tmp_path / "a", names, limits)
    (tmp_path / "a" / ".everest" / "ingest.jsonl").unlink()
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    try:
        there = ingest(tmp_path / "a", names, limits, cluster.scheduler_address)
    finally:
        cluster.close()
    assert there == here
    assert here["empty.mp4"].reason == "empty"
