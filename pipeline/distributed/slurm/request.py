"""What a job asks SLURM for, as `sbatch` takes it, and what of our environment it sees.

Options are given on the command line, where they win over `SBATCH_*` variables of the user; the script is three lines.
Not by submitit: it would bring a pickled function into the job and a resubmission of its own (`requeue` on its own
signal, without our checkpoints' word), where all that is needed is one `sbatch`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.system.redact import redact_value

#: [s] before SLURM ends a turn, at which ranks are told to save; SLURM may tell them up to 60 s earlier.
NOTICE_SECONDS = 180
#: Variables that belong to the job around us, if we are in one, and servers that no rank talks to.
_OWN = re.compile(r"(SLURM(?!_CONF$)|PET_|PMI|PREFECT_|MLFLOW_(?!DISABLE))|TORCHELASTIC|CUDA_VISIBLE_DEVICES$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def job_name(work: Path) -> str:
    """The name of a work folder's job: stage, benchmark, fingerprint."""
    return "-".join(("everest", *work.parts[-3:]))


@dataclass(frozen=True)
class Request:
    """What one training asks for.

    Attributes:
        work: its work folder, on a file system that all nodes share.
        nodes, ranks, gpus: machines; ranks and GPUs of each.
        cpus_per_rank: CPU cores; None for the cluster's own default.
        hours: time limit of one turn.
        extra: further options of sbatch, such as `qos` and its value.
    """

    work: Path
    nodes: int
    ranks: int
    gpus: int
    hours: float
    partition: str | None = None
    account: str | None = None
    cpus_per_rank: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return job_name(self.work)

    @property
    def log(self) -> Path:
        """What the job prints, all its turns one after another."""
        return self.work / "slurm.log"

    def options(self) -> list[str]:
        """The options of sbatch."""
        minutes = max(1, round(self.hours * 60))
        notice = min(NOTICE_SECONDS, minutes * 15)
        chosen = {"partition": self.partition, "account": self.account, **self.extra}
        return [
            f"--job-name={self.name}", f"--comment={self.work}", f"--nodes={self.nodes}", "--ntasks-per-node=1",
            *([f"--gpus-per-node={self.gpus}"] if self.gpus else []),
            *([f"--cpus-per-task={self.ranks * self.cpus_per_rank}"] if self.cpus_per_rank else []),
            f"--time={minutes}", f"--signal=B:USR1@{notice}", "--requeue", "--open-mode=append",
            f"--output={str(self.log).replace('%', '%%')}", f"--chdir={Path.cwd()}",
            *(f"--{key}={value}" for key, value in chosen.items() if value),
        ]  # fmt: skip

    def script(self, command: Sequence[str]) -> str:
        """The batch script: a supervisor on the first node, which starts `command` on each node."""
        supervisor = [
            sys.executable,
            "-m",
            "pipeline.distributed.slurm.batch",
            "--work",
            str(self.work),
            "--",
            *command,
        ]
        return f"#!/bin/sh\n# Submitted by `everest`; see docs/training.md.\nexec {shlex.join(supervisor)}\n"


def exported(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for a job: ours without secrets (SLURM writes them into its files), and without another job's own."""
    return {
        name: value
        for name, value in environment.items()
        if _NAME.fullmatch(name) and not _OWN.match(name) and redact_value(name, value) == value
    }
