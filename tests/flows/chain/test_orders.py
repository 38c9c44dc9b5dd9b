"""The state that a run gets when its worker has stopped it and Prefect could only say that it crashed."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, StateType

from flows.chain import orders

CRASHED, RUNNING, PENDING = StateType.CRASHED, StateType.RUNNING, StateType.PENDING
CANCELLING, CANCELLED, COMPLETED = StateType.CANCELLING, StateType.CANCELLED, StateType.COMPLETED


class Client:
    """Prefect's, with one run that had these states."""

    def __init__(self, *types: StateType) -> None:
        began = datetime(2026, 1, 1, tzinfo=UTC)
        self.states = [State(type=kind, timestamp=began + timedelta(seconds=n)) for n, kind in enumerate(types)]
        self.set: list[tuple[str, StateType]] = []

    def read_flow_run_states(self, _run: UUID) -> list[State[object]]:
        return self.states[::-1]

    def set_flow_run_state(self, _run: UUID, state: State[object], force: bool) -> None:
        assert force
        self.set.append((str(state.name), state.type))


@pytest.mark.parametrize(
    ("had", "gets"),
    [
        ((PENDING, CRASHED), [("Resuming", StateType.SCHEDULED)]),
        ((PENDING, RUNNING, CRASHED), [("Resuming", StateType.SCHEDULED)]),
        ((PENDING, CANCELLING, CRASHED), [("Cancelled", CANCELLED)]),
        ((RUNNING, CANCELLING, CANCELLED, CRASHED, CRASHED), [("Cancelled", CANCELLED)]),
        ((RUNNING, COMPLETED, CRASHED), [("Completed", COMPLETED)]),
        ((RUNNING, COMPLETED), []),
        ((RUNNING, CANCELLED), []),
        ((PENDING, CANCELLING), [("Cancelled", CANCELLED)]),
        ((PENDING,), [("Resuming", StateType.SCHEDULED)]),
        ((RUNNING,), [("Resuming", StateType.SCHEDULED)]),
        ((RUNNING, StateType.SCHEDULED), []),
        ((CRASHED,), [("Resuming", StateType.SCHEDULED)]),
        ((), []),
    ],
)
def test_a_stopped_run_goes_on_later_unless_it_had_an_end_or_was_to_have_one(
    monkeypatch: pytest.MonkeyPatch, had: tuple[StateType, ...], gets: list[tuple[str, StateType]]
) -> None:
    client = Client(*had)
    monkeypatch.setattr(orders, "get_client", lambda sync_client: nullcontext(client))
    orders.settle_stopped(uuid4())
    assert client.set == gets
