"""`make deploy`: what a Prefect server needs for this project, made or brought up to date; run it as often as you like.

A process work pool, the limit of one training at a time, an automation that marks runs of dead machines as crashed,
and the deployments of prefect.yaml.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from datetime import timedelta
from pathlib import Path

from flows.chain.orders import NO_HEARTBEAT
from flows.chain.slot import LIMIT
from flows.worker import HEARTBEAT_SECONDS, POOL
from pipeline.errors import EverestError
from pipeline.system.text import visible

ZOMBIES = "everest: crash runs without heartbeat"
#: Heartbeats that may be missed.
MISSED = 3


def main() -> int:
    """Bring the server at Prefect's PREFECT_API_URL up to date; exit code 2 where there is none to talk to."""
    from prefect.settings import Settings

    url = Settings().api.url  # of the environment, `.env`, a TOML file or a profile, as for every other command
    if not url:
        sys.stderr.write(
            "error: PREFECT_API_URL is not set: deployments need a server that stays. "
            "Cure: make ui (in another terminal), then export PREFECT_API_URL=http://127.0.0.1:4200/api\n"
        )
        return 2
    try:
        require_server(url)
        _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
        limit_trainings()
        crash_zombies()
        _prefect("--no-prompt", "deploy", "--all")
    except EverestError as error:
        sys.stderr.write(f"error: {visible(str(error))}\n")
        return error.exit_code
    sys.stdout.write("Start a worker:  everest ops worker\n")
    return 0


def require_server(url: str) -> None:
    """Raises EverestError where nothing answers."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except (OSError, ValueError) as error:
        raise EverestError(
            f"no Prefect server answers at PREFECT_API_URL = {url} ({error}). "
            "Cure: make ui (in another terminal), or the address of a server that runs."
        ) from None


def limit_trainings() -> None:
    """One slot of the limit that every training takes."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(LIMIT, 1)


def crash_zombies() -> None:
    """A run whose machine dies says nothing more, and would stay RUNNING for ever on a server of one's own."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    crashed = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=NO_HEARTBEAT, force=False)
    automation = AutomationCore(
        name=ZOMBIES,
        description="The machine that ran it is gone: start the run again, and it continues.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | ends,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED * HEARTBEAT_SECONDS),
        ),
        actions=[crashed],
    )
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(ZOMBIES):
            client.delete_automation(old.id)
        client.create_automation(automation)


def _prefect(*arguments: str) -> None:
    program = Path(sys.executable).with_name("prefect")
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EverestError(
            f"prefect {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-500:]}\n"
            "Cure: mend what it names, then `make deploy` again."
        )
    sys.stdout.write(visible(f"prefect {' '.join(arguments)}: done\n"))


if __name__ == "__main__":
    sys.exit(main())
