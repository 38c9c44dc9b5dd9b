"""Processes that decode videos for this one and are killed when they must be: their start, protocol and end.

Nothing less than killing a process stops a decoder that spins while it holds Python's lock, so every request has a
deadline on the parent's clock. A request names a function and gives its arguments, the answer is what the function
returns, each a line of JSON; what libraries print goes where errors go.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import IO, TypeVar, TypeVarTuple, cast, get_type_hints

from pydantic import TypeAdapter

from pipeline.data.video import VideoError, preload
from pipeline.errors import UnavailableError
from pipeline.params import IngestParams
from pipeline.system.processes import die_with_parent

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

#: A process loads two decoders before its first file; a machine that takes longer for that is in trouble.
START_SECONDS = 120.0


@dataclass(frozen=True)
class Limits:
    """What one file may cost: seconds on the clock, bytes of address space of the whole process."""

    deadline_seconds: float
    memory_bytes: int

    @classmethod
    def of(cls, params: IngestParams) -> Limits:
        """The limits that the group `ingest` of params.yaml sets."""
        return cls(params.deadline_seconds, int(params.memory_gib * 2**30))

    def message(self, reason: str) -> str:
        """What a person reads where a process was ended for `reason` (a code of `pipeline.data.ingest.verdicts`)."""
        seconds = self.deadline_seconds
        return {
            "deadline": f"not decoded within ingest.deadline_seconds = {seconds:g}; its process was killed",
            "memory": f"decoding needs more than ingest.memory_gib = {self.memory_bytes / 2**30:g}",
            "crashed": "the decoder crashed",
        }[reason]


class DecoderEnded(VideoError):
    """A video that costs a decoding process: `reason` says how it ended."""


class Decoder:
    """A process that answers one request after another, and is started again after its end.

    Attributes:
        limits: of one file.
        memory: a file in memory that both sides have, under :attr:`memory_number` on the process's side.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory: IO[bytes] = os.fdopen(os.memfd_create("frames"), "r+b", buffering=0)
        self.memory_number = self.memory.fileno()
        self._closed = False
        self._ready = False
        self._process, self._errors = self._started()

    def begin(self) -> float:
        """Wait until the process is ready; returns when a request that starts now is due, on the monotonic clock.

        Raises:
            UnavailableError: it does not start, or it was closed.
        """
        if self._closed:
            raise UnavailableError("the decoding process was closed.")
        if self._process.poll() is not None:
            self._end()
            self._ready = False
            self._process, self._errors = self._started()
        if not self._ready:
            try:
                self._receive(time.monotonic() + START_SECONDS)
            except TimeoutError:
                raise UnavailableError(f"a decoding process did not start within {START_SECONDS:.0f} s.") from None
            except EOFError:
                raise UnavailableError(
                    f"a decoding process ended by itself (exit code {self._process.wait()}): "
                    f"{self._complaint()[-400:]} Cure: raise ingest.memory_gib, and see what `everest doctor` says of "
                    "the decoders."
                ) from None
            self._ready = True
        return time.monotonic() + self.limits.deadline_seconds

    def ask(self, due: float, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """What a module's function of plain arguments returns in the process: plain values or a dataclass of them.

        Args:
            due: when the process is killed, on the monotonic clock; :meth:`begin` gives it.

        Raises:
            VideoError: the function raised it.
            DecoderEnded: the process was killed (`deadline`) or ended by itself (`memory`, `crashed`); the next request
                goes to a new one.
        """
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died while idle: noticed by its closed output
                request = [function.__module__, function.__name__, arguments]
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            answer = self._receive(due)
        except TimeoutError:
            reason = "deadline"
        except EOFError:
            signs = ("bad_alloc", "annot allocate memory", "MemoryError")
            reason = "memory" if any(sign in self._complaint() for sign in signs) else "crashed"
        else:
            error, content = json.loads(answer)
            if error is not None:
                raise VideoError(*error)
            return cast(Result, _returned(function).validate_python(content))
        self._process.kill()
        self._process.wait()
        raise DecoderEnded(reason, self.limits.message(reason))

    def close(self) -> None:
        """End the process; whoever waits for its answer gets an error."""
        self._closed = True
        self._process.kill()

    def release(self) -> None:
        """Give back what a closed decoder holds, once nobody asks it any more."""
        self._end()
        self.memory.close()

    def _started(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        # The kernel ends a process with the thread that started it, and those that ask come and go.
        return _starter().submit(_popen, self.limits, self.memory_number).result()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                if pipe:
                    pipe.close()

    def _receive(self, due: float) -> bytes:
        """The process's next answer.

        Raises:
            TimeoutError: none until it is due.
            EOFError: it has ended.
        """
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([output], [], [], max(0.0, due - time.monotonic()))[0]:
                raise TimeoutError
            block = os.read(output, 1 << 16)
            if not block:
                raise EOFError
            answer += block
        return answer

    def _complaint(self) -> str:
        """The end of what the process wrote to standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return self._errors.read().decode(errors="replace").strip()


class Decoders:
    """Several processes side by side; threads that want more than there are wait for one another."""

    def __init__(self, limits: Limits, count: int) -> None:
        self._all = [Decoder(limits) for _ in range(count)]
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for decoder in self._all:
            self._free.put(decoder)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Decoder]:
        """A decoder that nobody else uses meanwhile."""
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)

    def close(self) -> None:
        """End all processes; whoever waits for one gets an error."""
        for decoder in self._all:
            decoder.close()
        for _ in self._all:
            self._free.get().release()
        for decoder in self._all:  # for threads that still wait
            self._free.put(decoder)


def serve() -> None:
    """The process's side: answer requests until the parent closes the pipe. torch is never imported."""
    memory_bytes = int(sys.argv[1])
    die_with_parent(signal.SIGKILL)  # a decoder that never returns would not notice
    # Answers go to the real standard output, which stays open until a traceback has been written: the parent takes its
    # end for the process's. What libraries print goes where errors go.
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    preload()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(answers, None, None)
    for line in sys.stdin.buffer:
        module, name, arguments = json.loads(line)
        function = getattr(importlib.import_module(module), name)
        try:
            result = function(*arguments)
        except VideoError as error:
            _answer(answers, (error.reason, str(error)), None)
        else:
            _answer(answers, None, result)


def _answer(answers: IO[bytes], error: tuple[str, str] | None, result: object) -> None:
    content = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    answers.write(json.dumps([error, content]).encode() + b"\n")
    answers.flush()


@functools.cache
def _returned(function: Callable[..., object]) -> TypeAdapter[object]:
    """Reads what a function returns."""
    return TypeAdapter(get_type_hints(function)["return"])


@functools.cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def _popen(limits: Limits, memory_number: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A new process and the file that its standard error goes to."""
    errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # The folder that holds this package comes first, wherever the parent was started.
    path = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.data.ingest.worker", str(limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[memory_number],
            start_new_session=True,  # Ctrl-C is the parent's affair
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(path)},
        )
    except OSError as error:  # no more processes or memory, or Python itself is gone
        raise UnavailableError(
            f"a decoding process cannot start: {error.strerror}. Cure: free memory and processes (`ulimit -u`)."
        ) from None
    return process, errors
