"""A project of its own for each run of the chain: a clone of the last commit with the uncommitted source on top."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.params.write import write_overrides

#: What tests of the chain begin with, under the demo's name: two benchmarks whatever the demo draws.
RECIPE = "recipes/drawn.yaml"
#: The chain at its smallest: every stage does its work, none of it long enough to learn anything.
SMALLEST: dict[str, Any] = {
    "recipe": "demo",
    **{
        f"benchmarks.{key}.data.source.{split}": 16 for key in ("motion", "state_change") for split in ("train", "test")
    },
    **{f"benchmarks.{key}.data.source.val": 8 for key in ("motion", "state_change")},
    "pretrain.epochs": 2,
    "pretrain.batch": 8,
    "finetune.label_fraction": 1.0,
    "finetune.epochs": 2,
    "finetune.batch": 8,
    "finetune.validate_every_epochs": 1,
    "evaluate.segments": 1,
    "evaluate.bootstrap": 200,
    "compare.strategies": ["everest", "tube"],
    "compare.benchmarks": ["motion"],
    "ingest.workers": 1,
    "preprocess.workers": 1,
}


@dataclass
class Project:
    """A checkout, and how to run our commands in it; `last` is what the chain printed."""

    root: Path
    environment: dict[str, str]
    last: subprocess.CompletedProcess[str] | None = None

    def run(self, *command: str, check: bool = True, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def make_project(source: Path, folder: Path, overrides: dict[str, Any]) -> Project:
    """Clone, overlay what is not committed yet, and set parameters over those of RECIPE (none: params.yaml stays)."""
    subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
    changed = ["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"]
    for command in changed:
        names = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout.splitlines()
        # What a demo noted in this checkout is no part of the code under test.
        for name in (name for name in names if (source / name).exists() and not name.endswith("dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if overrides:
        shutil.copyfile(folder / RECIPE, folder / "params.yaml")
    write_overrides(folder / "params.yaml", overrides)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", *identity, "commit", "--quiet", "--allow-empty", "-m", "smallest"], cwd=folder, check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    home = folder / ".work" / "prefect"
    home.mkdir(parents=True)  # the server does not make parents
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PWD": str(folder),  # as a shell would set it: prefect.yaml reads it
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "EVEREST_QUIET": "1",
    }
    return Project(folder, environment)


@pytest.fixture(scope="session")
def smallest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The demo at its smallest size, not yet run."""
    return make_project(root, tmp_path_factory.mktemp("chain") / "project", SMALLEST)


@pytest.fixture(scope="session")
def finished(smallest: Project) -> Project:
    """The chain, run once."""
    smallest.last = smallest.run("everest", "demo")
    return smallest
