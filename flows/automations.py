"""What Prefect's server does by itself, each made anew under its name: mark dead runs, tell people, run the canary."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.chain.orders import NO_HEARTBEAT
from flows.worker import HEARTBEAT_SECONDS

ZOMBIES = "everest: crash runs without heartbeat"
FAILURES, HEALTH = "everest: tell of failed runs", "everest: tell when no worker is there"
CANARY = "experiment/canary"
#: When the canary runs, in UTC, where nobody has said otherwise; and what is said for never.
NIGHTLY, OFF = "0 3 * * *", "off"
#: The block that holds the address which is told.
BLOCK = "everest-notify"
#: Heartbeats that may be missed.
MISSED = 3
#: Events after which no heartbeat is expected: a run that is Resuming waits for a worker.
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Resuming")
RUN, POOL = "prefect.flow-run.*", "prefect.work-pool.*"


def crash_zombies() -> None:
    """A run whose machine dies says nothing more, and would stay RUNNING for ever on a server of one's own."""
    crashed = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=NO_HEARTBEAT, force=False)
    _make(
        ZOMBIES,
        "The machine that ran it is gone: start the run again, and it continues.",
        EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{name}" for name in ENDS)},
            match=ResourceSpecification({"prefect.resource.id": [RUN]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED * HEARTBEAT_SECONDS),
        ),
        crashed,
    )


def notify(url: str) -> None:
    """Tell an address (Slack, Mattermost, or one's own: `{"text": ...}`) of failed runs and of missing workers."""
    # On a machine's own network the address is often a private one.
    json_body = SecretDict({"Content-Type": "application/json"})
    webhook = Webhook(method="POST", url=SecretStr(url), headers=json_body, allow_private_urls=True)
    block = UUID(str(webhook.save(BLOCK, overwrite=True)))
    failed = [f"prefect.flow-run.{name}" for name in ("Failed", "Crashed")]
    text = "flow.name ~ ': run ' ~ flow_run.name ~ ' is ' ~ flow_run.state.name ~ ': ' ~ flow_run.state.message"
    _make(
        FAILURES,
        "What failed is told; an equal submission goes on with it.",
        _when(failed, RUN),
        CallWebhook(block_document_id=block, payload=_payload(text)),
    )
    text = "'No worker takes the runs of pool ' ~ work_pool.name ~ ': everest ops worker'"
    _make(
        HEALTH,
        "Submitted runs wait until a worker is there.",
        _when(["prefect.work-pool.not-ready"], POOL),
        CallWebhook(block_document_id=block, payload=_payload(text)),
    )


def told() -> str | None:
    """The address that an earlier call has named, where it is still told of failures."""
    with get_client(sync_client=True) as client:
        if not any(one.enabled for one in client.read_automations_by_name(FAILURES)):
            return None
    with contextlib.suppress(ValueError):  # somebody has removed it
        return cast(Webhook, Webhook.load(BLOCK)).url.get_secret_value()
    return None


def _payload(text: str) -> str:
    """The body that the server fills: messages have quotes and new lines, which JSON has in another form."""
    return f'{{"text": {{{{ ({text}) | tojson }}}}}}'


def schedule_canary(cron: str | None) -> None:
    """Run the chain at its smallest at these times (UTC), never with `off`; with None as before, nightly at first."""
    # Switched off it keeps a schedule that sleeps: by that a later call without a time knows.
    schedule = CronSchedule(cron=NIGHTLY if cron is None or cron == OFF else cron, timezone="UTC")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(CANARY).id
        before = client.read_deployment_schedules(deployment)
        if cron is None and before:
            return
        for old in before:
            client.delete_deployment_schedule(deployment, old.id)
        client.create_deployment_schedules(
            deployment, [DeploymentScheduleCreate(schedule=schedule, active=cron != OFF)]
        )


def _when(events: Sequence[str], resource: str) -> EventTrigger:
    return EventTrigger(
        expect=set(events),
        match=ResourceSpecification({"prefect.resource.id": [resource]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(seconds=0),
    )


def _make(name: str, description: str, trigger: EventTrigger, action: CallWebhook | ChangeFlowRunState) -> UUID:
    automation = AutomationCore(name=name, description=description, trigger=trigger, actions=[action])
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(name):
            client.delete_automation(old.id)
        return client.create_automation(automation)
