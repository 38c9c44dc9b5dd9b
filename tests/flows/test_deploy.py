"""Deploying without a server ends with a message, not a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import CallWebhook
from prefect.server.utilities.user_templates import render_user_template_sync

from flows import automations, deploy
from pipeline.errors import InputError


def test_without_an_address_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert deploy.main() == 2
    assert "Cure: make ui" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "localhost"])
def test_a_dead_or_wrong_address_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert deploy.main() == 1
    assert f"no Prefect server answers at PREFECT_API_URL = {url}" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "content"), [
    (".env", "PREFECT_API_URL={url}"), ("prefect.toml", '[api]\nurl = "{url}"'),
    ("profiles.toml", 'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{url}"'),
])  # fmt: skip
def test_an_address_is_taken_from_wherever_prefect_takes_it(
    file: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://127.0.0.1:9/api"
    (tmp_path / file).write_text(content.format(url=url) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    assert deploy.main() == 1
    assert f"no Prefect server answers at PREFECT_API_URL = {url}" in capsys.readouterr().err


def test_a_time_for_the_canary_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automations, "crash_zombies", lambda: None)
    monkeypatch.setattr(automations, "told", lambda: None)
    with pytest.raises(
        InputError, match=r"--canary 'at night' is no cron line .*Cure: for example '0 3 \* \* \*', or off"
    ):
        deploy.automate(None, "at night")


class Deployments:
    """What Prefect's client does with a deployment's schedules."""

    def __init__(self) -> None:
        self.schedules: dict[UUID, DeploymentScheduleCreate] = {}

    def __enter__(self) -> Deployments:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read_deployment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=name)

    def read_deployment_schedules(self, _: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=number) for number in self.schedules]

    def delete_deployment_schedule(self, _: str, number: UUID) -> None:
        del self.schedules[number]

    def create_deployment_schedules(self, _: str, new: list[DeploymentScheduleCreate]) -> None:
        self.schedules |= {uuid4(): one for one in new}


@pytest.mark.parametrize(("said", "kept"), [
    ([None], ("0 3 * * *", True)),
    (["30 2 * * *", None], ("30 2 * * *", True)),
    (["off", None], ("0 3 * * *", False)),
    (["30 2 * * *", "off", None, "15 4 * * *", None], ("15 4 * * *", True)),
])  # fmt: skip
def test_init_without_a_time_leaves_the_canary_its_own(
    said: list[str | None], kept: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Deployments()
    monkeypatch.setattr(automations, "crash_zombies", lambda: None)
    monkeypatch.setattr(automations, "told", lambda: None)
    monkeypatch.setattr(automations, "get_client", lambda sync_client: server)
    for canary in said:
        deploy.automate(None, canary)
    (one,) = server.schedules.values()
    assert isinstance(one.schedule, CronSchedule)
    assert (one.schedule.cron, one.active) == kept


@pytest.mark.parametrize("message", [
    "pretrain failed: CUDA out of memory\nIts log: .work/logs/1/pretrain.log",
    'recipe = "x" is not in recipes/. Cure: use \'one\' of: <demo> & C:\\demo.',
])  # fmt: skip
def test_what_is_told_is_json_whatever_a_failure_says(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, CallWebhook] = {}
    monkeypatch.setattr(automations.Webhook, "save", lambda *_, **__: uuid4())
    monkeypatch.setattr(automations, "_make", lambda name, _text, _when, action: made.update({name: action}))
    automations.notify("http://127.0.0.1:9")
    state = SimpleNamespace(name="Failed", message=message)
    about = {
        "flow": SimpleNamespace(name="experiment"),
        "flow_run": SimpleNamespace(name='my "demo"', state=state),
        "work_pool": SimpleNamespace(name="everest"),
    }
    told = {name: json.loads(render_user_template_sync(action.payload, about)) for name, action in made.items()}
    assert told == {
        automations.FAILURES: {"text": f'experiment: run my "demo" is Failed: {message}'},
        automations.HEALTH: {"text": "No worker takes the runs of pool everest: everest ops worker"},
    }
