"""The tracking store's own file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAKE = "from pipeline.tracking.store import Store; print(len(Store('sqlite:///mlflow.db').search()))"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


@pytest.mark.slow  # imports MLflow and makes its tables twice
def test_a_store_whose_maker_is_killed_is_not_there_and_the_next_start_makes_it(here: Path) -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE)
    unfinished = here / ".mlflow.db.new"
    deadline = time.monotonic() + 60
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert unfinished.exists(), "killed while it made the tables"
    assert not (here / "mlflow.db").exists()
    done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
    assert not unfinished.exists()
