"""Measures many files in worker processes that take one file after another and are killed when they must be.

Nothing less than killing a process stops a decoder that spins while it holds Python's lock, so every file has
a deadline on the parent's clock. A worker that exceeds it, crashes or runs out of memory is replaced; only
the file it was busy with bears the consequence.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.data.ingest_measure import Measurement
from pipeline.errors import EverestError

#: A worker loads two decoders before its first file; a machine that takes longer for that is in trouble.
START_SECONDS = 120.0
BOTH_READERS = ("decord", "pyav")


@dataclass(frozen=True)
class Limits:
    """What one file may cost: seconds on the clock, bytes of address space of the whole worker."""

    deadline_seconds: float
    memory_bytes: int


@dataclass
class _Job:
    index: int
    path: Path
    readers: tuple[str, ...] = BOTH_READERS


class _Worker:
    """One child process. `job` is what it is busy with, `due` when it will be killed."""

    def __init__(self, limits: Limits) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.data.ingest_worker", str(limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C is the parent's affair
            env=environment | {"PYTHONPATH": _python_path()},
        )
        self.job: _Job | None = None
        self.ready = False
        self.due = time.monotonic() + START_SECONDS
        self._buffer = b""

    def send(self, job: _Job, limits: Limits) -> None:
        self.job = job
        self.due = time.monotonic() + limits.deadline_seconds
        assert self.process.stdin is not None
        line = json.dumps([os.fspath(job.path), job.readers]) + "\n"
        with contextlib.suppress(BrokenPipeError):  # it died while idle: noticed by its closed output
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """A whole answer; None while it is not complete.

        Raises:
            EOFError: the process has ended.
        """
        assert self.process.stdout is not None
        block = os.read(self.process.stdout.fileno(), 65536)
        if not block:
            raise EOFError
        self._buffer += block
        if not self._buffer.endswith(b"\n"):
            return None
        line, self._buffer = self._buffer, b""
        answer: dict[str, Any] = json.loads(line)
        return answer

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 2000))
        return self.errors.read().decode(errors="replace").strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                if pipe:
                    pipe.close()


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
            worker = _Worker(limits)
            pool.append(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]

        def retire(worker: _Worker) -> None:
            selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
            worker.kill()
            pool.remove(worker)
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
                            worker.send(queue.popleft(), limits)
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
    """What becomes of the file that a process died over: a second chance with PyAV alone, or a reason."""
    job = worker.job
    if job is None:
        raise EverestError(
            f"a decoding process ended by itself (exit code {worker.process.wait()}): {worker.complaint()[-400:]} "
            "Cure: raise ingest.memory_gib, and see whether `everest doctor` finds both decoders."
        )
    complaint = worker.complaint()
    if any(sign in complaint for sign in ("bad_alloc", "annot allocate memory", "MemoryError")):
        yield job.index, _failed(job.path, "memory", limits)
    elif len(job.readers) > 1:
        queue.append(_Job(job.index, job.path, ("pyav",)))
    else:
        yield job.index, _failed(job.path, "crashed", limits)


def _failed(path: Path, reason: str, limits: Limits) -> Measurement:
    """A measurement that only tells why there is none; size and time let it be remembered."""
    message = {
        "deadline": f"not decoded within {limits.deadline_seconds:g} s; its process was killed",
        "memory": f"decoding needs more than {limits.memory_bytes / 2**30:.1f} GiB",
        "crashed": "the decoder crashed",
    }[reason]
    try:
        found = path.stat()
    except OSError:
        return Measurement(reason=reason, message=message)
    return Measurement(bytes=found.st_size, mtime_ns=found.st_mtime_ns, reason=reason, message=message)


def _python_path() -> str:
    """The folder that holds this package comes first, wherever the parent was started."""
    own = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
