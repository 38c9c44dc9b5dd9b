"""Where ranks run, as `compute.launcher` says: on this machine, or as a job of SLURM."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.distributed import ends
from pipeline.distributed.devices import taken
from pipeline.distributed.launch import Watch, launch, raise_end
from pipeline.distributed.node import Plan
from pipeline.distributed.nodes import this_node
from pipeline.distributed.slurm import follow
from pipeline.distributed.slurm.request import Request
from pipeline.errors import EverestError, InputError, Interrupted, parted
from pipeline.params import ComputeParams
from pipeline.system.disk import DiskFullError, has_room

log = logging.getLogger(__name__)


def start(
    module: str, arguments: Sequence[str], compute: ComputeParams, stage: str, work: Path, locks: Sequence[int] = ()
) -> None:
    """Run `python -m module arguments --work WORK` as the ranks that `compute` asks for, to the end.

    Args:
        locks: descriptors from `launch.locked` and :func:`devices`, which local ranks keep open.

    Raises:
        Interrupted: a signal stopped it after its state was saved.
        InputError, EverestError: a rank said so, or ended without a word too often; SLURM refuses the job.
    """
    watch = Watch(compute.stall_seconds, compute.max_restarts)
    ranks = compute.ranks_of(stage)
    if compute.launcher == "local":
        follow.refuse_beside(work.absolute())
        launch(
            module, list(arguments), ranks=ranks, work=work, threads=compute.threads_per_rank, locks=locks, watch=watch
        )
        return
    if this_node().count > 1:
        raise InputError(
            "compute.launcher = 'slurm' with PET_NNODES: a job has nodes of its own. Cure: unset PET_NNODES, or set "
            "compute.launcher to local."
        )
    work = work.absolute()
    asked = compute.slurm
    request = Request(
        work, asked.nodes, ranks, compute.gpus_of(stage), asked.hours, asked.partition, asked.account,
        asked.cpus_per_rank, {str(key): value for key, value in asked.extra.items()},
    )  # fmt: skip
    _as_job(request, Plan(module, tuple(arguments), work, ranks, compute.threads_per_rank, watch))


@contextlib.contextmanager
def devices(compute: ComputeParams, stage: str, benchmark: str | None) -> Iterator[tuple[int, ...]]:
    """Wait for the GPUs of this machine that a stage asks for, if it runs on any, and hold them; yields descriptors.

    Raises:
        InputError: this machine has not so many.
    """
    if compute.launcher != "local" or compute.device == "cpu":
        yield ()
        return
    wanted = compute.wanted(stage) or compute.ranks
    with taken(wanted, f"{stage}@{benchmark}" if benchmark else stage) as held:
        yield held.descriptors


def _as_job(request: Request, plan: Plan) -> None:
    """Job after job, as long as each turn gets on: clusters that do not requeue end a job at its time limit."""
    idle = 0
    while True:
        before = follow.newest_state(request.work)
        end = follow.follow(request, plan.command())
        verdict = ends.of_nodes(request.work)
        (request.work / follow.RECORD).unlink(missing_ok=True)
        if verdict is not None and verdict.state == "done" and end.state in ("COMPLETED", "GONE"):
            return
        if end.stopped is not None:
            saved = f": {verdict.message}" if verdict is not None and verdict.state == "interrupted" else ""
            raise Interrupted(
                f"SLURM job {end.job} was stopped by {end.stopped}{saved or '; start again to continue.'}"
            )
        if verdict is not None and verdict.state != "interrupted" and not verdict.retry and verdict.state != "done":
            raise_end(verdict, request.work)
        if verdict is None and not has_room(request.work):
            raise DiskFullError(request.work)
        got_on = follow.newest_state(request.work) != before
        idle = 0 if got_on else idle + 1
        error: EverestError = follow.failed(end, request)
        if end.state in ("CANCELLED", "GONE") or idle > plan.watch.max_restarts:
            raise error
        log.warning(
            "ranks: %s. Submitted again%s.",
            parted(error)[0],
            "" if got_on else f" ({idle} of {plan.watch.max_restarts})",
        )
