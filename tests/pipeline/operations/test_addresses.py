"""Which databases are meant: those of the servers that are named, never an old file that happens to lie here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.operations.addresses import databases


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with files of SQLite of before."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVEREST_DATABASE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    for name in ("mlflow.db", "prefect.db"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this process, as of a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


VARIABLES = [("MLFLOW_TRACKING_URI", "", "mlflow.db"), ("PREFECT_API_URL", "/api", "prefect.db")]


@pytest.mark.parametrize(("variable", "path", "file"), VARIABLES)
def test_an_old_file_here_is_not_the_database_of_a_server_elsewhere(
    variable: str, path: str, file: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://me:secret@lab.example:5000{path}")
    with pytest.raises(
        InputError, match=rf"{variable} = .*does not have .*{file} open\. Cure: run this where"
    ) as caught:
        databases(here)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("EVEREST_DATABASE", "postgresql://host")
    assert databases(here).mlflow == "postgresql://host/everest_mlflow"


@pytest.mark.parametrize(("variable", "path", "file"), VARIABLES)
def test_a_file_is_that_of_the_server_on_this_machine_which_has_it_open_or_is_stopped(
    variable: str, path: str, file: str, here: Path, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{listening}{path}")
    with pytest.raises(InputError, match=f"does not have .*{file} open"):
        databases(here)
    with (here / file).open():
        databases(here)
    monkeypatch.setenv(variable, f"http://127.0.0.1:9{path}")
    assert databases(here).mlflow == f"sqlite:///{here / 'mlflow.db'}"
    assert databases(here).prefect == f"sqlite:///{here / 'prefect.db'}"
