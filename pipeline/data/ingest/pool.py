"""Measures many files side by side, each in a process that is killed when it must be, here or on a cluster.

Only the file that a process was busy with bears the consequence of its end. On a cluster one bad file costs its
deadline and never a Dask worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pipeline.data.ingest.cluster import connected
from pipeline.data.ingest.measure import file_facts, measure
from pipeline.data.ingest.process import Decoder, DecoderEnded, Decoders, Limits
from pipeline.data.ingest.verdicts import Measurement
from pipeline.data.video import VideoError
from pipeline.errors import EverestError

Found = TypeVar("Found")

#: Files of one task of a cluster: enough to outweigh starting a process, few enough to spread evenly and to retry.
FILES_PER_TASK = 64


def measure_files(paths: Sequence[Path], limits: Limits, workers: int) -> Iterator[tuple[int, Measurement]]:
    """Measure every file; yields (index in `paths`, measurement) as they finish, in any order.

    Args:
        paths: files, of any kind and quality.
        limits: of one file; its process is killed `deadline_seconds` after the file was handed over.
        workers: processes side by side.

    Raises:
        EverestError: processes cannot start at all.
    """
    return look_at_files(paths, limits, workers, measure, lambda measurement: measurement)


def look_at_files(
    paths: Sequence[Path],
    limits: Limits,
    workers: int,
    look: Callable[[str, str, float], Found],
    failed: Callable[[Measurement], Found],
) -> Iterator[tuple[int, Found]]:
    """As :func:`measure_files`, by another function.

    Args:
        look: called in the processes with a file's path, the reader, and the seconds that it may take, as
            :func:`pipeline.data.ingest.measure.measure` has them.
        failed: what stands for a file that a process died over, of which only the reason is known.
    """
    workers = min(workers, len(paths))
    if not workers:
        return
    decoders = Decoders(limits, workers)

    def measure_one(index: int) -> tuple[int, Found]:
        with decoders.borrow() as decoder:
            return index, _measure(decoder, paths[index], look, failed)

    with ThreadPoolExecutor(workers) as threads:
        indices = iter(range(len(paths)))
        running: set[Future[tuple[int, Found]]] = set()
        try:
            while True:
                # Some wait, so that no process does; not all, since there may be a hundred thousand.
                running |= {threads.submit(measure_one, index) for index in islice(indices, 2 * workers - len(running))}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            decoders.close()


def measure_on_cluster(address: str, root: Path, paths: list[str], limits: Limits) -> Iterator[tuple[str, Measurement]]:
    """Measure files on the cluster at `address`; yields (path, measurement) as tasks finish.

    Raises:
        InputError: Dask is not installed or no scheduler answers.
        EverestError: a task failed for another reason than a bad video.
    """
    with connected(address) as client:
        from distributed import as_completed

        chunks = [paths[start : start + FILES_PER_TASK] for start in range(0, len(paths), FILES_PER_TASK)]
        tasks = [client.submit(_measure_chunk, root, chunk, limits, pure=False) for chunk in chunks]
        for task in as_completed(tasks):
            if task.status != "finished":
                raise EverestError(
                    f"a task of the cluster at {address} failed: {task.exception()}. "
                    "Cure: see the worker's log; what was measured is kept, so start again."
                )
            yield from task.result()
            task.release()


def _measure_chunk(root: Path, paths: list[str], limits: Limits) -> list[tuple[str, Measurement]]:
    """What one task does, on the cluster's machine."""
    return [(paths[index], result) for index, result in measure_files([root / path for path in paths], limits, 1)]


def _measure(
    decoder: Decoder,
    path: Path,
    look: Callable[[str, str, float], Found],
    failed: Callable[[Measurement], Found],
) -> Found:
    """One file's measurement: by decord where PyAV crashes on it, and with a reason where its process had to end."""
    seconds = decoder.limits.deadline_seconds
    try:
        try:
            return decoder.ask(decoder.begin(), look, os.fspath(path), "pyav", seconds)
        except DecoderEnded as end:
            if end.reason != "crashed":
                raise
            return decoder.ask(decoder.begin(), look, os.fspath(path), "decord", seconds)
    except DecoderEnded as end:
        try:
            known = file_facts(path)  # size and time let the failure be remembered
        except (OSError, VideoError):
            known = Measurement()
        return failed(replace(known, reason=end.reason, message=str(end)))
