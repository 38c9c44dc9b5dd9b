"""The slot of Prefect's limit that a training takes, so that Prefect's page shows who trains and who waits.

It guards nothing by itself: whoever asks for it has the lock file of its checkout already. A server that was restarted
may have lost the lease of a slot that nobody gives back then; and the slot of a killed run stays taken until its lease
ends. So each run that has a slot says so in its labels, and a slot that no running one claims is set free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run

from pipeline.layout import LIMIT

#: The label of a flow run that has the slot: the lock file that it holds, with its machine; empty when it has ended.
LABEL = "everest.turn"
#: [s] that a slot must stay unclaimed before it is set free: one that was just taken is claimed within milliseconds.
UNCLAIMED_SECONDS = 3.0


@contextmanager
def slot(place: str, wait: Callable[[Callable[[], str]], None]) -> Iterator[None]:
    """Hold a slot, if the server has the limit (`everest ops init` makes it) and answers.

    Args:
        place: the lock file that this run holds, with its machine: other claims of it are those of dead runs.
        wait: a pause, which is told what is waited for, and raises where the wait is to end.
    """
    logger = get_run_logger()
    unclaimed: float | None = None
    with ExitStack() as stack:
        while not _taken(stack, logger):
            others = _claims(place)
            if others is None:
                wait(lambda: "Prefect's server")
            elif others:
                unclaimed = None
                names = ", ".join(f"run {run.name} ({run.id}) on {run.labels[LABEL]}" for run in others)
                wait(partial(str, names))
            elif unclaimed is None or time.monotonic() - unclaimed < UNCLAIMED_SECONDS:
                unclaimed = unclaimed or time.monotonic()
                wait(lambda: f"a slot of Prefect's limit {LIMIT!r} that no running training claims")
            else:
                logger.warning("The slot of Prefect's limit %r was held by no running training: it is set free.", LIMIT)
                with suppress(httpx.HTTPError, PrefectException):  # the next look is told why
                    set_active(0)
        _claim(place)
        stack.callback(_claim, "")
        yield


def claims(place: str = "") -> list[FlowRun]:
    """The running flow runs that say that they have a slot, without those of the lock file `place`."""
    going = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=going))
    return [run for run in runs if run.labels.get(LABEL) not in (None, "", place)]


def _claims(place: str) -> list[FlowRun] | None:
    """As :func:`claims`; None where the server does not answer."""
    try:
        return claims(place)
    except (httpx.HTTPError, PrefectException):
        return None


def set_active(slots: int) -> None:
    """Correct the number of slots that the server believes to be taken."""
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(active_slots=slots))


def _taken(stack: ExitStack, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> bool:
    """Whether the slot is ours, or there is none to be had: the lock file guards without it."""
    try:
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name(LIMIT)
        if limit.active_slots >= limit.limit:
            return False
        ours = ExitStack()
        ours.enter_context(
            # A lost lease does not stop a training, since the lock file guards it anyway.
            concurrency(LIMIT, occupy=1, strict=False, max_retries=0, raise_on_lease_renewal_failure=False)
        )
        stack.callback(_give_back, ours, logger)
    except ObjectNotFound:  # the demo's embedded server has no limits
        return True
    except Exception as error:  # Prefect's class for what `concurrency` raises is private
        cause = error if isinstance(error, httpx.HTTPError) else error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED:
            return False
        if not isinstance(cause, httpx.HTTPError):
            raise
        logger.warning(
            "Prefect's limit %r does not answer (%s): the lock file alone guards this training.", LIMIT, cause
        )
    return True


def _give_back(ours: ExitStack, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    """Let the slot go; where the server is away, its lease ends by itself, and the training has ended well."""
    try:
        ours.close()
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("Prefect's limit %r does not answer (%s): the slot is free when its lease ends.", LIMIT, error)


def _claim(place: str) -> None:
    """Note at this flow run which lock file it holds; a word on the page only, so that an outage does no harm."""
    with get_client(sync_client=True) as client:
        _label(client, UUID(str(flow_run.id)), place)


def _label(client: SyncPrefectClient, run: UUID, place: str) -> None:
    try:
        client.update_flow_run_labels(run, {LABEL: place})
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("Prefect did not note who trains (%s)", error)
