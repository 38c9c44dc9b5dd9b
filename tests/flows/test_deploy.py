"""Deploying without a server ends with a message, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    with pytest.raises(
        InputError, match=r"--canary 'at night' is no cron line .*Cure: for example '0 3 \* \* \*', or off"
    ):
        deploy.automate(None, "at night")
