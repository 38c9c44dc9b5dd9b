"""A project's root in a temporary folder, with its own SQLite store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.store import Store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project in the current folder. Runs that a test leaves are the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_PARENT_RUN", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "params.yaml").write_text("recipe: demo\nseed: 0\npretrain: {epochs: 2}\ncompute: {ranks: 2}\n")
    return tmp_path


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables made once: the migration takes seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{file}")
    return file
