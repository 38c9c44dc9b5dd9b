"""Measures many files in worker processes that take one file after another and are killed when they must be.

Nothing less than killing a process stops a decoder that spins while it holds Python's lock, so every file has
a deadline on the parent's clock. A worker that exceeds it, crashes or runs out of memory is replaced; only
the file it was busy with bears the consequence.
"""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.ingest.measure import Measurement
from pipeline.data.video.process import START_SECONDS, DecoderProcess, Limits
from pipeline.errors import EverestError


@dataclass
class _Job:
    index: int
    path: Path
    reader: str = "pyav"


class _Worker(DecoderProcess):
    """One process. `job` is what it is busy with."""

    job: _Job | None = None

    def take(self, job: _Job) -> None:
        self.job = job
        self.send([os.fspath(job.path), job.reader, self.limits.deadline_seconds])


def measure_files(paths: Sequence[Path], limits: Limits, workers: int) -> Iterator[tuple[int, Measurement]]:
    """Measure every file; yields (index in `paths`, measurement) as they finish, in any order.

    Args:
        paths: files, of any kind and quality.
        limits: of one file; its worker is killed `deadline_seconds` after the file was handed over.
        workers: processes side by side.

    Raises:
        EverestError: worker processes cannot start at all.
    """
    queue = deque(_Job(index, path) for index, path in enumerate(paths))
    pool: list[_Worker] = []
    with selectors.DefaultSelector() as selector:

        def start() -> None:
            worker = _Worker("pipeline.data.ingest.worker", limits)
            pool.append(worker)
            selector.register(worker.output, selectors.EVENT_READ, worker)

        def retire(worker: _Worker) -> None:
            selector.unregister(worker.output)
            worker.kill()
            pool.remove(worker)
            for other in pool:  # those that had nothing left to do, when its file gets a second chance
                if other.ready and other.job is None and queue:
                    other.take(queue.popleft())
            if len(queue) > sum(other.job is None for other in pool):
                start()

        try:
            for _ in range(min(workers, len(queue))):
                start()
            while queue or any(worker.job for worker in pool):
                pause = max(
                    0.0,
                    min(worker.due for worker in pool if worker.job or not worker.ready) - time.monotonic(),
                )
                for key, _ in selector.select(pause):
                    worker = key.data
                    try:
                        answer = worker.receive()
                    except EOFError:
                        yield from _after_death(worker, queue, limits)
                        retire(worker)
                        continue
                    if answer is not None:
                        worker.ready = True
                        if worker.job:
                            yield worker.job.index, Measurement(**answer)
                            worker.job = None
                        if queue:
                            worker.take(queue.popleft())
                for worker in [one for one in pool if (one.job or not one.ready) and one.due <= time.monotonic()]:
                    if not worker.ready:
                        raise EverestError(f"a decoding process did not start within {START_SECONDS:.0f} s.")
                    assert worker.job is not None
                    yield worker.job.index, _failed(worker.job.path, "deadline", limits)
                    retire(worker)
        finally:
            for worker in pool:
                worker.kill()


def _after_death(worker: _Worker, queue: deque[_Job], limits: Limits) -> Iterator[tuple[int, Measurement]]:
    """What becomes of the file that a process died over: a second chance with decord, or a reason."""
    job = worker.job
    if job is None:
        raise EverestError(
            f"a decoding process ended by itself (exit code {worker.process.wait()}): {worker.complaint()[-400:]} "
            "Cure: raise ingest.memory_gib, and see what `everest doctor` says of the decoders."
        )
    reason = worker.died_of()
    if reason == "crashed" and job.reader == "pyav":
        queue.append(_Job(job.index, job.path, "decord"))
    else:
        yield job.index, _failed(job.path, reason, limits)


def _failed(path: Path, reason: str, limits: Limits) -> Measurement:
    """A measurement that only tells why there is none; size and time let it be remembered."""
    message = limits.said(reason)
    try:
        found = path.stat()
    except OSError:
        return Measurement(reason=reason, message=message)
    return Measurement(bytes=found.st_size, mtime_ns=found.st_mtime_ns, reason=reason, message=message)
