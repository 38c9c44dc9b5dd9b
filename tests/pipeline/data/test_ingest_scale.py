from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import sample_videos

from pipeline.data.ingest import ingest
from pipeline.data.ingest_pool import Limits, measure_files
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


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_processes_are_nearly_twice_as_fast(tmp_path: Path) -> None:
    paths = [sample_videos.write(tmp_path / f"{n}.mp4", frames=120, seed=n) for n in range(300)]
    limits = Limits(60.0, 2 << 30)

    def seconds(workers: int) -> float:
        measured = measure_files(paths, limits, workers)
        for _ in range(workers):
            next(measured)  # starting the processes is not what is compared
        started = time.monotonic()
        assert sum(1 for _ in measured) == len(paths) - workers
        return time.monotonic() - started

    if os.getloadavg()[0] > 0.5:
        pytest.skip("something else keeps the cores busy")
    assert seconds(1) / seconds(2) >= 1.8
