"""One tracking store for all tests that only happen to track: making its tables takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _one_tracking_store(request: pytest.FixtureRequest, tracking_store: str) -> Iterator[None]:
    """Tests of the tracking itself bring their own."""
    folder = Path(str(request.path)).parent.name
    if folder not in ("data", "stages"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_store)
        yield


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without params.yaml, as a new user's: the current one for this test."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here
