"""SLURM's own commands: submit, look, signal, cancel, put back into the queue.

Nothing here knows of ranks. States are SLURM's words (`man squeue`, JOB STATE CODES).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import EverestError, InputError

#: [s] for one command; SLURM's own limit for a message is 10 s.
ANSWER_SECONDS = 60
#: States in which a job waits for its turn: nothing runs that could save.
WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
#: States in which it may still come to run, or runs.
ALIVE = WAITING | frozenset(
    ("CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
)


class SlurmSilentError(EverestError):
    """The controller does not answer: nothing is known of any job until it does."""


@dataclass(frozen=True)
class Job:
    """One look at a job; `comment` is what its submitter wrote into it."""

    number: int
    state: str
    reason: str
    nodes: str
    comment: str = ""

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def __str__(self) -> str:
        where = f" on {self.nodes}" if self.nodes and self.state not in WAITING else ""
        why = f" ({self.reason})" if self.reason not in ("", "None") and not where else ""
        return f"SLURM job {self.number} is {self.state}{why}{where}"


def submit(options: Sequence[str], script: str, environment: Mapping[str, str]) -> int:
    """`sbatch`; returns the job's number.

    Args:
        environment: what the job sees of ours; SLURM keeps it in its own files until the job has ended.

    Raises:
        InputError: SLURM refuses the job: no such partition or account, more than there is.
    """
    done = _run(["sbatch", "--parsable", *options], script, environment)
    if done.returncode:
        raise InputError(
            f"SLURM refuses the job: {_words(done)}. Cure: change compute.slurm ({' '.join(options)}); "
            "`sinfo` lists partitions and their limits."
        )
    return int(done.stdout.strip().partition(";")[0])


def look(number: int, comment: str | None = None) -> Job | None:
    """The job's state; None where SLURM has forgotten it, minutes after its end.

    Args:
        comment: a job with another one is not this job: each cluster counts for itself, after a reset anew.

    Raises:
        SlurmSilentError: the controller does not answer.
    """
    done = _run(["squeue", "--noheader", "--states=all", f"--jobs={number}", f"--format={_FORMAT}"])
    if done.returncode and "Invalid job id" in done.stderr:
        return None
    return next((job for job in _jobs(done) if comment is None or job.comment == comment), None)


def find(name: str, comment: str) -> Job | None:
    """Our waiting or running job with this name and comment; None where there is none."""
    done = _run(["squeue", "--noheader", "--me", f"--name={name}", f"--format={_FORMAT}"])
    return next((job for job in _jobs(done) if job.comment == comment and job.alive), None)


class Notice:
    """A signal to the processes of a job's steps, or with `--batch` to its batch script alone.

    Attributes:
        taken: whether SLURM took it. Once is enough: torchrun takes a second one as 'now'.
    """

    def __init__(self, number: int, signal: str, *where: str) -> None:
        self.taken = False
        self._command = ["scancel", f"--signal={signal}", *where, str(number)]
        self._refused = False

    def send(self, say: Callable[[str], object]) -> None:
        """Try it, if it was not taken yet; the first refusal is said."""
        if self.taken:
            return
        done = _run(self._command)
        self.taken = done.returncode == 0
        if not self.taken and not self._refused:
            self._refused = True
            say(f"`{' '.join(self._command)}` failed and is tried until it works: {_words(done)}")


def cancel(number: int) -> None:
    """End a job: SLURM's SIGTERM, and its SIGKILL after the cluster's KillWait (30 s)."""
    _run(["scancel", str(number)])


def requeue(number: int) -> str | None:
    """Put a job back into the queue; returns why SLURM refuses."""
    done = _run(["scontrol", "requeue", str(number)])
    return _words(done) if done.returncode else None


def address(node: str) -> str:
    """The address by which SLURM itself reaches a node; its name where SLURM does not tell."""
    done = _run(["scontrol", "--oneliner", "show", "node", node])
    match = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return match[1] if match else node


_FORMAT = "%i|%T|%r|%N|%k"


def _jobs(done: subprocess.CompletedProcess[str]) -> list[Job]:
    if done.returncode:
        raise SlurmSilentError(
            f"squeue: {_words(done)}. Cure: see whether slurmctld answers (`scontrol ping`); the job itself goes on."
        )
    rows = [line.split("|", 4) for line in done.stdout.splitlines()]
    return [Job(int(row[0]), *row[1:]) for row in rows if len(row) == 5 and row[0].isdigit()]


def _run(
    command: Sequence[str], text: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, env=None if environment is None else dict(environment), capture_output=True, text=True,
            check=False, timeout=ANSWER_SECONDS, errors="replace",
            start_new_session=True,  # a Ctrl-C is for us: half a submission would lose a job's number
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(
            f"compute.launcher = 'slurm', and {command[0]} is not installed here. Cure: start the run where SLURM's "
            "commands are (a login node), or set compute.launcher to local."
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER_SECONDS} s")


def _words(done: subprocess.CompletedProcess[str]) -> str:
    text = (done.stderr or done.stdout).strip()
    return " ".join(text.split())[-500:] or f"exit code {done.returncode}"
