"""A small project with a pre-training that runs as `everest pretrain` would be typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from small_training import ready

from pipeline.params.write import write_params


@dataclass
class Project:
    """`params.yaml`, cache and corpus in `root`, which is the current folder."""

    root: Path
    environment: dict[str, str]
    training: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.training = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "pretrain"],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "words.log").open("ab"),
            start_new_session=True,
        )

    def ranks(self) -> list[psutil.Process]:
        return psutil.Process(self.training.pid).children(recursive=True)

    def end(self, number: signal.Signals) -> None:
        """Send the signal to the stage and wait until its ranks have ended too."""
        ranks = self.ranks()
        self.training.send_signal(number)
        self.training.wait(60)
        psutil.wait_procs(ranks, timeout=60)

    def wait_for(self, holds: Callable[[], bool], seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, (self.root / "words.log").read_text()[-2000:]
            time.sleep(0.1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path, tracking_store: str) -> Iterator[Project]:
    """A pre-training that would take minutes; nothing runs yet."""
    folder = tmp_path_factory.mktemp("status")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("PREFECT_API_URL", "EVEREST_RUNS", "EVEREST_WORK"):
            patch.delenv(name, raising=False)
        params = ready(pretrain__epochs=5000, pretrain__checkpoint_every_steps=5, compute__ranks=2)
        write_params(folder / "params.yaml", params)
        environment = {
            **os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "MLFLOW_TRACKING_URI": tracking_store,
            "EVEREST_TRACKING_WAIT": "1", "TERM": "xterm",
        }  # fmt: skip
        made = Project(folder, environment)
        yield made
        if made.training is not None and made.training.poll() is None:
            made.end(signal.SIGKILL)
