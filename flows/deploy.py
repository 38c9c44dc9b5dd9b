"""`everest ops init`, or `make deploy`: what a Prefect server needs for this project, made or brought up to date.

Two process work pools, the limit of one training at a time, automations (runs of dead machines are marked as crashed,
failures are told), the deployments of prefect.yaml and the time of the nightly canary. Run it as often as you like.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import EverestError, InputError
from pipeline.layout import DATA_POOL, LIMIT, POOL
from pipeline.system.text import visible


def main(words: Sequence[str] = ()) -> int:
    """Bring the server at Prefect's PREFECT_API_URL up to date; exit code 2 where there is none to talk to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notify", help="address that is told of failures, as JSON {text}")
    parser.add_argument("--canary", help="cron line in UTC; `off` for none; as it is if left out")
    arguments = parser.parse_args(words)
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
        for pool in (POOL, DATA_POOL):
            _prefect("work-pool", "create", pool, "--type", "process", "--overwrite")
        limit_trainings()
        _prefect("--no-prompt", "deploy", "--all")
        automate(arguments.notify, arguments.canary)
    except EverestError as error:
        sys.stderr.write(f"error: {visible(str(error))}\n")
        return error.exit_code
    sys.stdout.write("Start a worker:  everest ops worker\nSee what goes on: everest ops status\n")
    return 0


def require_server(url: str) -> None:
    """Raises EverestError where nothing answers."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise EverestError(
            f"no Prefect server answers at PREFECT_API_URL = {url} ({error}). "
            "Cure: make ui (in another terminal), or the address of a server that runs."
        ) from None


def limit_trainings() -> None:
    """One slot of the limit that every training takes."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(LIMIT, 1)


def automate(address: str | None, canary: str | None) -> None:
    """What the server does by itself; the canary keeps its time with None.

    Raises:
        EverestError: the cron line is none, or the server refuses the address.
    """
    from pydantic import ValidationError

    from flows import automations

    automations.crash_zombies()
    if known := address or automations.told():
        automations.notify(known)
        sys.stdout.write(f"Failures and missing workers are told{'' if address else ' to the address of before'}.\n")
    else:
        sys.stdout.write("Nobody is told of failures. Cure: everest ops init --notify URL\n")
    try:
        automations.schedule_canary(canary)
    except ValidationError as error:
        raise InputError(
            f"--canary {canary!r} is no cron line ({error.errors()[0]['msg']}). "
            f"Cure: for example {automations.NIGHTLY!r}, or {automations.OFF}."
        ) from None


def _prefect(*arguments: str) -> None:
    program = Path(sys.executable).with_name("prefect")
    # As a shell sets it, and a container does not: prefect.yaml names the folder of deployments by it.
    here = os.environ | {"PWD": str(Path.cwd())}
    done = subprocess.run([str(program), *arguments], env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EverestError(
            f"prefect {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-500:]}\n"
            "Cure: mend what it names, then `everest ops init` again."
        )
    sys.stdout.write(visible(f"prefect {' '.join(arguments)}: done\n"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
