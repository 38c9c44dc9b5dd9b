"""What an experiment has taken so far, on disk: one small record for each execution of a stage, dead ones included.

    .work/spent/<experiment>/<began>-<process>.json

The experiment is named by its parameters without `compute`, `compare` and `pretrain.monitor`: a higher budget, another
price, another number of ranks or more looks are the same experiment, and what it took before counts. A comparison and a
repetition count all of their trainings together (EVEREST_SPENT).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import layout
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.system.files import read_json, write_json

VARIABLE = "EVEREST_SPENT"


@dataclass(frozen=True)
class Execution:
    """One execution of a stage, or the part of it so far.

    Attributes:
        began, ended: seconds since 1970.
        gpus: that it holds once it has got them, on this machine or in its job.
        wh: [Wh] of the GPUs that it held on this machine, or of its CPU packages; None where nothing counts them.
        gpu_seconds: that it held GPUs, each counted; None in records of before they were counted.
    """

    stage: str
    began: float
    ended: float
    gpus: int
    wh: float | None
    gpu_seconds: float | None = None

    @property
    def gpu_time(self) -> float:
        """[s] of GPUs, without the time that it waited for them."""
        return self.gpus * (self.ended - self.began) if self.gpu_seconds is None else self.gpu_seconds


@dataclass(frozen=True)
class Spent:
    """The sum over executions; two that ran at once count as one in `hours`.

    Attributes:
        kwh: of those whose energy was measured; None where no one's was.
        executions, measured: how many there are, and of how many the energy was measured.
    """

    hours: float
    gpu_hours: float
    kwh: float | None
    executions: int = 0
    measured: int = 0

    @property
    def partly(self) -> str:
        """How many executions `kwh` is of, in words, where it is not of all: the run has taken more; else empty."""
        if self.kwh is None or self.measured == self.executions:
            return ""
        return f"{self.measured} of {self.executions} executions measured"


def ledger(params: Params) -> Path:
    """The folder of an experiment's records."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else named_ledger(params)


def named_ledger(params: Params, prefix: str = "", work: Path | None = None) -> Path:
    """The folder that bears the name of these parameters.

    Args:
        prefix: for a series of experiments.
        work: the `.work` of another folder than this one.
    """
    beside: dict[str, bool | set[str]] = {"compute": True, "pretrain": {"monitor"}}
    decisive = params.model_dump(mode="json", exclude=beside if prefix else beside | {"compare": True})
    root = work or Path(os.environ.get("EVEREST_WORK") or layout.WORK)
    return (root / "spent" / f"{prefix}{layout.fingerprint(decisive)}").absolute()


@contextmanager
def one_ledger(params: Params, series: str) -> Iterator[None]:
    """Within the block all experiments that this process starts count together, as one series."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(named_ledger(params, f"{series}-"))
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def write_execution(path: Path, execution: Execution) -> None:
    write_json(path, asdict(execution))


def read_executions(folder: Path, but: Path | None = None) -> list[Execution]:
    """All records of an experiment but one, the oldest first.

    Raises:
        InputError: one cannot be read.
    """
    try:
        # Unlike iterdir, glob passes over a folder that it may not list.
        names = sorted(path for path in folder.iterdir() if path.match("[0-9]*.json")) if folder.exists() else []
        contents = [read_json(path) for path in names if path != but]
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror}; it says what a stage has taken of the budget. "
            "Cure: make it readable; removed, it counts no longer."
        ) from None
    return [Execution(**content) for content in contents if content]


def total(executions: Iterable[Execution]) -> Spent:
    """The sum of executions."""
    all_of_them = sorted(executions, key=lambda one: one.began)
    seconds, until = 0.0, 0.0
    for one in all_of_them:
        seconds += max(0.0, one.ended - max(one.began, until))
        until = max(until, one.ended)
    measured = [one.wh for one in all_of_them if one.wh is not None]
    return Spent(
        hours=seconds / 3600,
        gpu_hours=sum(one.gpu_time for one in all_of_them) / 3600,
        kwh=sum(measured) / 1000 if measured else None,
        executions=len(all_of_them),
        measured=len(measured),
    )
