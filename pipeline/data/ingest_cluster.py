"""Ingest over a Dask cluster that the user runs, for sets that one machine would decode for days.

Its workers must see the videos under the same path and have this project installed. Each task still measures
in a process of its own that can be killed, so one bad file costs its deadline and never a worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.ingest_measure import Measurement
from pipeline.data.ingest_pool import Limits, measure_files
from pipeline.errors import EverestError, InputError

#: Files of one task: enough to outweigh starting a process, few enough to spread evenly and to retry.
FILES_PER_TASK = 64


def measure_on_cluster(address: str, root: Path, paths: list[str], limits: Limits) -> Iterator[tuple[str, Measurement]]:
    """Measure files on the cluster at `address`; yields (path, measurement) as tasks finish.

    Raises:
        InputError: Dask is not installed or no scheduler answers.
        EverestError: a task failed for another reason than a bad video.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError(
            f"EVEREST_DASK = {address}: Dask is not installed here. Cure: pip install 'dask[distributed]', or unset "
            "EVEREST_DASK to check the videos on this machine."
        ) from None
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"EVEREST_DASK = {address}: no scheduler answers ({error}). Cure: start one with `dask scheduler`, or "
            "unset EVEREST_DASK."
        ) from None
    with client:
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
