"""The stage's side of a job: submit it or find it again, stream its log, hand a stop on, say how it ended.

    <work>/slurm.json   the job's number: a stage whose process died finds its job by it, or by its name and comment
    <work>/slurm.log    what the ranks say, all turns one after another

The job goes on if this process dies. Told to stop (STOP of pipeline.system.processes), it lets the ranks save.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.distributed import ends
from pipeline.distributed.slurm import client
from pipeline.distributed.slurm.client import Job, SlurmSilentError
from pipeline.distributed.slurm.request import Request, exported, job_name
from pipeline.efficiency.gpus import holding
from pipeline.errors import BusyError, EverestError, InputError, parted
from pipeline.system.files import read_json, write_json
from pipeline.system.processes import StopRequest, stop_handled
from pipeline.system.text import visible

log = logging.getLogger(__name__)

RECORD = "slurm.json"
#: [s] between two looks: at the log and our own signals, and at the job.
POLL_SECONDS, LOOK_SECONDS = 0.5, 3.0
#: [s] that a job gets to save and end after it was told to, before SLURM ends it.
PATIENCE_SECONDS = 120
#: [bytes] of the log that a stage which finds its job again repeats.
LAST_BYTES = 16 << 10


@dataclass(frozen=True)
class End:
    """How a job ended: its last state (`GONE` where SLURM has forgotten it), and by which of our signals."""

    job: int
    state: str
    reason: str
    stopped: str | None


def follow(request: Request, command: Sequence[str]) -> End:
    """Run `command` on each node as a job, to its end, through all its turns.

    Raises:
        InputError: SLURM refuses the job, or is not installed.
    """
    stop = StopRequest()
    with stop_handled(stop.note):
        job = living(request.work)
        number = _submit(request, command) if job is None else job.number
        tail = _Tail(request.log, from_end=job is not None)
        if job is not None:
            _note(request, job.number)
            log.warning("ranks: %s: found again, nothing was submitted.", job)
        try:
            with contextlib.ExitStack() as held:
                return _watch(request, number, stop, tail, None if job is None else str(job), held)
        finally:
            tail.print()


def living(work: Path) -> Job | None:
    """The job of this work folder that waits or runs already."""
    number = read_json(work / RECORD).get("job")
    job = client.look(number, str(work)) if isinstance(number, int) else None
    if job is not None and job.alive:
        return job
    # Its number is not known where the submitter died between SLURM's answer and its own note.
    return client.find(job_name(work), str(work))


def refuse_beside(work: Path) -> None:
    """Refuse to train on this machine what a job trains, or will.

    Raises:
        BusyError: names the job, or the record that is left where SLURM cannot be asked.
    """
    if not (record := work / RECORD).exists():
        return
    try:
        job = living(work)
    except (InputError, SlurmSilentError) as error:
        why = "it is not installed here." if isinstance(error, InputError) else f"{parted(error)[0]}."
        raise BusyError(
            f"{record} names a job of SLURM with this training, and SLURM cannot be asked whether it lives: {why} "
            f"Cure: where SLURM's commands are, `squeue --name={job_name(work)}`; if it lists none, remove {record}."
        ) from None
    if job is not None:
        raise BusyError(
            f"{job} with this training. Cure: `scancel {job.number}`, or compute.launcher: slurm to follow it."
        )
    record.unlink()


def _submit(request: Request, command: Sequence[str]) -> int:
    request.work.mkdir(parents=True, exist_ok=True)
    ends.forget_stated(request.work)  # a job that ends before its script begins would seem to have ended so
    number = client.submit(request.options(), request.script(command), exported())
    _note(request, number)
    log.warning("ranks: SLURM job %d was submitted: %s", number, " ".join(request.options()[2:]))
    return number


def _note(request: Request, number: int) -> None:
    write_json(request.work / RECORD, {"job": number, "name": request.name, "at": time.time(), "by": os.getpid()})


def _watch(
    request: Request, number: int, stop: StopRequest, tail: _Tail, said: str | None, held: contextlib.ExitStack
) -> End:
    names = [f"job {number}, GPU {place}" for place in range(request.nodes * request.gpus)]
    order = _StopOrder(number)
    holds = False
    looked = -LOOK_SECONDS
    silent = False
    job: Job | None = None
    while True:
        tail.print()
        now = time.monotonic()
        if now - looked >= LOOK_SECONDS or (stop.signal and order.since is None):
            looked = now
            try:
                job = client.look(number, str(request.work))
                silent = False
            except SlurmSilentError as error:
                if not silent:
                    log.warning("ranks: %s", error)
                silent = True
                time.sleep(POLL_SECONDS)
                continue
            if job is None or not job.alive:
                state, reason = (job.state, job.reason) if job else ("GONE", "")
                return End(number, state, reason, stop.signal)
            if (job.state == "RUNNING") != holds:  # a job that waits holds no GPU
                holds = not holds
                held.enter_context(holding(names)) if holds else held.close()
            if str(job) != said and job.state != "COMPLETING":
                said = str(job)
                log.warning("ranks: %s.", said)
            if stop.signal:
                order.give(job)
        time.sleep(POLL_SECONDS)


class _StopOrder:
    """Lets a running job save and end, a waiting one end; `since` is when it was first given."""

    def __init__(self, number: int) -> None:
        self.since: float | None = None
        self._notice = client.Notice(number, "INT", "--batch")

    def give(self, job: Job) -> None:
        now = time.monotonic()
        if job.state in client.WAITING or (self.since is not None and now - self.since > PATIENCE_SECONDS):
            client.cancel(job.number)
        elif not self._notice.taken:
            if self.since is None:
                log.warning("ranks: SLURM job %d is told to save and end.", job.number)
            self._notice.send(lambda text: log.warning("ranks: %s", text))
        self.since = now if self.since is None else self.since


class _Tail:
    """What is new in a file that another process appends to, on stderr."""

    def __init__(self, path: Path, from_end: bool) -> None:
        self._path = path
        size = path.stat().st_size if path.exists() else 0
        self._at = max(0, size - LAST_BYTES) if from_end else size

    def print(self) -> None:
        """Print whole lines only, so that they do not mix with ours."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        sys.stderr.write(visible(whole.decode("utf-8", errors="replace")))
        sys.stderr.flush()


def newest_state(work: Path) -> frozenset[str]:
    """The checkpoints that there are: another set means that a turn got on."""
    return frozenset(path.name for path in (work / "checkpoints").glob("step-*"))


def failed(end: End, request: Request) -> EverestError:
    """What is said of a job that ended without the ranks' own account of a fault."""
    why = {
        "GONE": "is no longer known to SLURM",
        "CANCELLED": "was cancelled by somebody else",
        "TIMEOUT": "reached its time limit before it could save",
        "OUT_OF_MEMORY": "was killed for want of memory",
    }.get(end.state, f"ended as {end.state}{f' ({end.reason})' if end.reason not in ('', 'None') else ''}")
    cure = {
        "TIMEOUT": "raise compute.slurm.hours; start again to continue.",
        "OUT_OF_MEMORY": "ask for more by compute.slurm.extra: {mem: ...}; start again to continue.",
    }.get(end.state, "see its log; start again to continue.")
    return EverestError(f"SLURM job {end.job} {why}. Its log: {request.log}. Cure: {cure}")
