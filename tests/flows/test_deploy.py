"""Deploying without a server ends with a message, not a traceback."""

from __future__ import annotations

import pytest

from flows import deploy


def test_without_an_address_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
