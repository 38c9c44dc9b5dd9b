"""Counts what a stage takes while it runs, and stops it well when the budget is spent.

A thread of the stage's own process, which has no torch and no step to disturb. When the time has come it sends this
process what Ctrl-C would: ranks save after the same step, other stages keep what is finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

from pipeline.budget.ledger import Execution, Spent, ledger, read_executions, total, write_execution
from pipeline.budget.limit import SENTENCE, reached, uncounted
from pipeline.efficiency.energy import MachineEnergy
from pipeline.efficiency.gpus import held, visible
from pipeline.errors import BudgetSpentError, InputError, Interrupted
from pipeline.params import ComputeParams, Params, load_params

log = logging.getLogger(__name__)

#: [s] between two looks at the clock, and between two records on disk: what a kill takes from the count at most.
TICK_SECONDS, WRITE_SECONDS = 0.5, 5.0
CURE = "Cure: raise it, and the same command continues; no stage becomes stale by it."
#: Stages whose ranks hold GPUs.
ON_GPUS = ("pretrain", "finetune", "evaluate")


class Meter(threading.Thread):
    """Counts one execution; see :func:`metered`."""

    def __init__(self, params: Params, stage: str, name: str) -> None:
        super().__init__(name="budget", daemon=True)
        self.folder, self.compute, self.name_of_stage = ledger(params), params.compute, name
        self.before = read_executions(self.folder)
        # A clock that was set back would lay this execution over earlier ones, and take their hours from the sum.
        self.began, self._since = max([time.time(), *(one.ended for one in self.before)]), time.monotonic()
        self.record = self.folder / f"{self.began:.3f}-{os.getpid()}.json"
        self.gpus = gpus_of(params.compute, stage)
        self.held = Held(self.gpus)
        self._unread = False
        #: Why the run was stopped; empty while it may go on.
        self.reason = ""
        self._closing = threading.Event()

    def run(self) -> None:
        written = -WRITE_SECONDS
        while not self._closing.wait(TICK_SECONDS):
            self.held.count()
            if time.monotonic() - written > WRITE_SECONDS:  # a clock that is set back would write nothing for hours
                written = time.monotonic()
                self.write()
                self._look()
            if not self.reason and reached(self.compute, self.spent()):
                self.compute = _as_it_is_now(self.compute)
                self.reason = reached(self.compute, self.spent())
                if self.reason:
                    os.kill(os.getpid(), signal.SIGINT)

    def _look(self) -> None:
        """Read what others have taken: another stage of the run may count at the same time."""
        try:
            self.before = read_executions(self.folder, but=self.record)
        except InputError as error:  # of a file server that is away for a moment: this one's own time counts on
            if not self._unread:
                log.warning("the budget counts on with what was read before: %s", error)
            self._unread = True

    def execution(self) -> Execution:
        """This one until now."""
        ended = self.began + time.monotonic() - self._since  # a clock that is set takes nothing of the budget
        return Execution(self.name_of_stage, self.began, ended, self.gpus, self.held.wh(), self.held.gpu_seconds)

    def spent(self) -> Spent:
        """The whole run until now."""
        return total([*self.before, self.execution()])

    def write(self) -> None:
        """Leave what this execution took so far on the disk; a disk that takes nothing stops no run."""
        with contextlib.suppress(OSError):
            write_execution(self.record, self.execution())

    def close(self) -> None:
        """Stop counting, with a last record."""
        self._closing.set()
        self.join()
        self.held.count()
        self.write()


class Held:
    """What the GPUs that a stage holds take, from when it has got them; without any, the CPUs.

    Args:
        gpus: that it will hold.
    """

    def __init__(self, gpus: int) -> None:
        self.gpu_seconds = 0.0
        self._names: tuple[str, ...] = ()
        self._before: float | None = 0.0
        self._energy = None if gpus else MachineEnergy(())
        self._counted = time.monotonic()

    def count(self) -> None:
        """Add the time since this was last asked, and look what is held now."""
        now = time.monotonic()
        self.gpu_seconds += len(self._names) * (now - self._counted)
        self._counted = now
        if (names := held()) != self._names:
            self._before, self._names = self.wh(), names
            self._energy = MachineEnergy(names) if names else None

    def wh(self) -> float | None:
        """[Wh] so far; None where a counter was missing."""
        if self._energy is None or self._before is None:
            return self._before
        read = self._energy.read()
        return None if read is None else self._before + read


@contextlib.contextmanager
def metered(params: Params, stage: str, benchmark: str | None) -> Iterator[None]:
    """Count what the body, a stage, takes.

    Raises:
        BudgetSpentError: nothing is left of the budget, and nothing was started; or it ran out, and the stage saved.
    """
    name = f"{stage}@{benchmark}" if benchmark else stage
    meter = Meter(params, stage, name)
    if reason := reached(params.compute, total(meter.before)):
        raise BudgetSpentError(f"{SENTENCE} {reason}; {name} was not started. {CURE}")
    names = visible()[: meter.gpus]
    countable = len(names) == meter.gpus and MachineEnergy(names).read() is not None  # a job's GPUs are not here
    if warning := uncounted(params.compute, meter.gpus, countable):
        log.warning("%s: %s", name, warning)
    meter.start()
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        if not meter.reason:
            raise
        saved = str(error).partition(" Start again")[0].replace("stopped by SIGINT", f"{name} was stopped")
        state = saved if isinstance(error, Interrupted) else f"{name} was stopped; what is finished is kept."
        raise BudgetSpentError(f"{SENTENCE} {meter.reason}; {state} {CURE}") from error
    finally:
        meter.close()


def _as_it_is_now(compute: ComputeParams) -> ComputeParams:
    """The group `compute` of params.yaml, which may have been raised since the stage began."""
    try:
        return load_params().compute
    except (InputError, OSError):
        return compute


def gpus_of(compute: ComputeParams, stage: str) -> int:
    """GPUs that a stage's ranks hold, here or in a job of SLURM."""
    if compute.device == "cpu" or stage not in ON_GPUS:
        return 0
    if compute.launcher == "slurm":
        return compute.gpus_of(stage) * compute.nodes
    return min(compute.ranks_of(stage), len(visible()))
