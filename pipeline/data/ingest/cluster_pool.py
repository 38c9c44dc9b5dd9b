"""Ingest over a Dask cluster (:mod:`pipeline.data.ingest.cluster`).

Each task still measures in a process of its own that can be killed, so one bad file costs its deadline and never
a worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.ingest.cluster import connected
from pipeline.data.ingest.measure import Measurement
from pipeline.data.ingest.pool import Limits, measure_files
from pipeline.errors import EverestError

#: Files of one task: enough to outweigh starting a process, few enough to spread evenly and to retry.
FILES_PER_TASK = 64


def measure_on_cluster(address: str, root: Path, paths: list[str], limits: Limits) -> Iterator[tuple[str, Measurement]]:
    """Measure files on the cluster at `address`; yields (path, measurement) as tasks finish.

    Raises:
        InputError: Dask is not installed or no scheduler answers.
        EverestError: a task failed for another reason than a bad video.
    """
    with connected(address) as client:
        from distributed import as_completed

        chunks = [paths[start : start + FILES_PER_TASK] for start in range(0, len(paths), FILES_PER_TASK)]
        tasks = [client.submit(measure_chunk, os.fspath(root), chunk, limits, pure=False) for chunk in chunks]
        for task in as_completed(tasks):
            if task.status != "finished":
                raise EverestError(
                    f"a task of the cluster at {address} failed: {task.exception()}. "
                    "Cure: see the worker's log; what was measured is kept, so start again."
                )
            yield from task.result()
            task.release()


def measure_chunk(root: str, paths: list[str], limits: Limits) -> list[tuple[str, Measurement]]:
    """What one task does, on the cluster's machine."""
    files = [Path(root) / path for path in paths]
    return [(paths[index], found) for index, found in measure_files(files, limits, workers=1)]
