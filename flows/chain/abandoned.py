"""Runs that nobody attends to since their worker or their process was killed: Prefect leaves them as they are for ever.

    Pending      a worker had taken it and not begun it: it goes back to the queue
    Cancelling   nobody is left who could end it: it is Cancelled

It has to be certain that they have nobody: no process of this machine is theirs, and either the pool's only living
worker is ours, or more time has passed than any start or end takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Scheduled

from flows.chain.orders import PROCESS_RUN, set_state
from pipeline.errors import EverestError
from pipeline.operations.server import Server, moment, record, rows
from pipeline.system.processes import with_variable

#: [s] between two looks; after which a worker's last sign of life is old (it gives one each 30 s).
LOOK_SECONDS, ALIVE_SECONDS = 10.0, 75.0
PENDING, CANCELLING = "PENDING", "CANCELLING"
#: [s] that a state lasts before its run counts as abandoned: beside no other worker, and beside others.
ALONE_SECONDS, SHARED_SECONDS = 60.0, 900.0


def watch(server: Server, pool: str, say: Callable[[str], None]) -> None:
    """See to a pool's abandoned runs, for ever, and say so; a server that is away is asked again."""
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            for run, kind, seconds in abandoned(server, pool):
                if set_state(run, _follows(kind)):
                    what = "back in the queue" if kind == PENDING else "Cancelled"
                    say(f"run {run} was {kind.title()} for {seconds:.0f} s and has no process: {what}")
        except EverestError:
            continue


def abandoned(server: Server, pool: str) -> list[tuple[UUID, str, float]]:
    """Runs of a pool that nobody attends to, the type of their state, and for how many seconds it has lasted.

    Raises:
        EverestError: the server does not answer.
    """
    states = {"state": {"type": {"any_": [PENDING, CANCELLING]}}}
    answer = rows(server.ask("flow_runs/filter", {"flow_runs": states, "work_pools": {"name": {"any_": [pool]}}}))
    runs = [(str(row["id"]), record(row["state"])) for row in answer]
    old = [
        (run, str(state["type"]), age) for run, state in runs if (age := _age(state.get("timestamp"))) > ALONE_SECONDS
    ]
    if not old:
        return []
    workers = rows(server.ask(f"work_pools/{quote(pool, safe='')}/workers/filter", {}))
    alone = sum(_age(row.get("last_heartbeat_time")) < ALIVE_SECONDS for row in workers) <= 1
    least = ALONE_SECONDS if alone else SHARED_SECONDS
    return [(UUID(run), kind, age) for run, kind, age in old if age > least and not with_variable(PROCESS_RUN, run)]


def _follows(kind: str) -> State[object]:
    if kind == PENDING:
        return Scheduled(message="the worker that had taken it was gone before it had begun")
    return Cancelled(message="its process was gone already")


def _age(time_stamp: object) -> float:
    """Seconds since then."""
    return time.time() - (moment(time_stamp) or 0.0)
