"""What Prefect's page asks of a run that is going, and the state that the run leaves when it was stopped.

The run itself looks at its state every two seconds. So it is cancelled also where nobody passes that on: its worker was
killed or replaced, or the run waits inside a task. What was stopped is saved, and ends as

    Cancelled    somebody cancelled it
    Resuming     its worker is being stopped (SIGTERM): the same run goes on from its checkpoint with the next worker
    Crashed      anything else, as Prefect has it

Only runs of a deployment are looked after; `everest run` is stopped by its terminal. No run fails because the server of
that page is away: what is to be shown there is left out, and a run that is done waits until its end can be noted.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause, PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelled, Running, Scheduled

from flows.chain.guard import Children
from flows.chain.lines import say
from pipeline.errors import EverestError
from pipeline.operations.server import Server

#: The run that a worker started this process for; its subflows are others.
PROCESS_RUN = "PREFECT__FLOW_RUN_ID"
#: [s] between two looks at the run's state.
LOOK_SECONDS = 2.0
#: How the automation of `everest ops init` words it that a run's heartbeats fail to come.
NO_HEARTBEAT = "no heartbeat: its machine or worker is gone"
#: The types of a state in which somebody has cancelled the run.
CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)
#: The types in which a stopped run is left that could not say how it ended.
UNSETTLED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.CRASHED)


@contextmanager
def orders(children: Children) -> Iterator[None]:
    """Stop the children when the run is cancelled; leave the run in the state that fits how it was stopped."""
    run = os.environ.get(PROCESS_RUN)
    if not run:
        yield
        return
    over = threading.Event()
    looks = threading.Thread(target=_look, args=(UUID(run), over), daemon=True, name="orders")
    looks.start()
    try:
        yield
    finally:
        over.set()
        if children.stopping:
            _settle(UUID(run), children)


def _look(run: UUID, over: threading.Event) -> None:
    """Turn the order to cancel into the signal that a worker would send."""
    while not over.wait(LOOK_SECONDS):
        state = state_of(run)
        if state is None:
            continue
        if state.type in CANCELLED:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if state.type is StateType.CRASHED and state.message == NO_HEARTBEAT:
            # It was the server that heard nothing, perhaps because it was away itself.
            set_state(run, Running(message="its heartbeats came late"))


def _settle(run: UUID, children: Children) -> None:
    """Note the run's new state, and end the process without another word of the engine about it.

    Raises:
        Pause: the state stands.
    """
    state = state_of(run)
    if state is None:
        return
    new: State[object] | None = None
    if state.type in CANCELLED:
        new = cancelled()
    elif children.stopping is signal.SIGTERM and state.type is StateType.RUNNING:
        new = resuming()
    if new is None or not set_state(run, new):
        return
    if flow_run.id and str(flow_run.id) != str(run):
        set_state(UUID(str(flow_run.id)), Cancelled(message=f"stopped with run {run}"))
    get_run_logger().info("%s: %s", new.name, new.message)
    children.settled = True
    raise Pause(new.message, state=new)


@contextmanager
def on_page(what: str) -> Iterator[None]:
    """Put something on Prefect's page; where the server is away, a word in the log instead of the run's end."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("%s did not get on Prefect's page: %s", what, error)


def until_answered(children: Children) -> None:
    """Wait, unless the run is told to stop, until the server can hear how it ended: Prefect tries for a minute only."""
    if server := Server.found():
        with suppress(EverestError):  # it answers, and refuses us: no waiting helps
            server.wait(
                "flows/filter",
                lambda: children.stopping,
                lambda why: say(f"the end waits: {why}"),
                lambda: time.sleep(LOOK_SECONDS / 2),
                {"limit": 1},
            )


def run_of(run: UUID) -> FlowRun | None:
    """The run as the server has it; None where no answer comes."""
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        return client.read_flow_run(run)
    return None


def state_of(run: UUID) -> State[object] | None:
    """The run's state on the server; None where no answer comes, or it has none."""
    known = run_of(run)
    return known.state if known is not None else None


def resuming() -> State[object]:
    """The state of a run that the next worker takes up."""
    return Scheduled(name="Resuming", message="saved; goes on from there when a worker is there again")


def cancelled() -> State[object]:
    """The state of a run that somebody cancelled."""
    return Cancelled(message="saved, then ended: an equal submission goes on from there")


def settle_stopped(run: UUID) -> None:
    """Give a run that its worker has stopped, and whose process is gone, the state that fits where it could not itself.

    So it is with one that was told to stop before its flow had begun, or while it was told something else: Prefect
    says then that it crashed, or nothing.
    """
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(run), key=lambda state: state.timestamp)
        if not states or states[-1].type not in UNSETTLED:
            return
        before = next((state for state in reversed(states) if state.type is not StateType.CRASHED), resuming())
        if before.type in CANCELLED:
            before = cancelled()
        client.set_flow_run_state(run, before if before.is_final() else resuming(), force=True)


def set_state(run: UUID, state: State[object]) -> bool:
    """Put the run in a state, whatever rules there are; whether the server has it."""
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)
        return True
    return False
