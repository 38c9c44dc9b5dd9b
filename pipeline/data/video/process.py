"""A process that decodes videos for this one, and is killed when it must be: its start, its protocol and its end.

Nothing less than killing a process stops a decoder that spins while it holds Python's lock, so every request has a
deadline on the parent's clock. The process reads a JSON list a line from standard input and answers a JSON object a
line; what libraries print goes where errors go.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.data.video import preload
from pipeline.system.processes import die_with_parent

#: A process loads two decoders before its first file; a machine that takes longer for that is in trouble.
START_SECONDS = 120.0


@dataclass(frozen=True)
class Limits:
    """What one file may cost: seconds on the clock, bytes of address space of the whole process."""

    deadline_seconds: float
    memory_bytes: int

    def said(self, reason: str) -> str:
        """What a person reads where a process was ended for `reason` (a code of `pipeline.data.ingest.verdicts`)."""
        seconds = self.deadline_seconds
        return {
            "deadline": f"not decoded within ingest.deadline_seconds = {seconds:g}; its process was killed",
            "memory": f"decoding needs more than ingest.memory_gib = {self.memory_bytes / 2**30:g}",
            "crashed": "the decoder crashed",
        }[reason]


class DecoderProcess:
    """The parent's side. `due` is when it will be killed."""

    def __init__(self, module: str, limits: Limits, pass_fds: Sequence[int] = ()) -> None:
        """Start `python -m module`, which calls :func:`serve`. The thread that starts it must outlive it.

        Args:
            pass_fds: open descriptors that it gets, under the same numbers.
        """
        self.limits = limits
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is the parent's affair
            env=environment | {"PYTHONPATH": _python_path()},
        )
        self.ready = False
        self.due = time.monotonic() + START_SECONDS
        self._buffer = b""

    def send(self, request: Sequence[Any]) -> None:
        """Hand over a request; its clock starts."""
        self.due = time.monotonic() + self.limits.deadline_seconds
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died while idle: noticed by its closed output
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """A whole answer; None while it is not complete.

        Raises:
            EOFError: the process has ended.
        """
        block = os.read(self.output, 65536)
        if not block:
            raise EOFError
        self._buffer += block
        if not self._buffer.endswith(b"\n"):
            return None
        line, self._buffer = self._buffer, b""
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def output(self) -> int:
        """The descriptor that answers come from, to wait on."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 2000))
        return self.errors.read().decode(errors="replace").strip()

    def died_of(self) -> str:
        """Why it ended by itself: `memory` or `crashed`."""
        signs = ("bad_alloc", "annot allocate memory", "MemoryError")
        return "memory" if any(sign in self.complaint() for sign in signs) else "crashed"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
                if pipe:
                    pipe.close()


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """The process's side: answer requests until the parent closes the pipe. torch is never imported.

    Args:
        answer: the entries of a request -> a JSON-able answer.
    """
    memory_bytes = int(sys.argv[1])
    die_with_parent(signal.SIGKILL)  # a decoder that never returns would not notice
    # Answers go to the real standard output; what libraries print goes where errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    preload()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), file=answers, flush=True)


def _python_path() -> str:
    """The folder that holds this package comes first, wherever the parent was started."""
    own = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
