"""A clone of the project behind a server and a worker, whose runs are the canary's: the whole chain at its smallest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ports import free_port
from prefect_site import Site
from ruamel.yaml import YAML

from pipeline.tracking.store import Store
from tests.e2e.conftest import make_project

EXPERIMENT = "everest-demo"


@dataclass
class Canary(Site):
    """Its runs differ by their seeds, so that each trains; the videos and their cache are made once."""

    def submit(self, number: int, data_on: str | None = None, **more: object) -> str:
        prefect = YAML(typ="safe").load((self.root / "prefect.yaml").read_text())
        canary = next(deployment for deployment in prefect["deployments"] if deployment["name"] == "canary")
        parameters = canary["parameters"]
        # Not the deployment itself: it takes one run at a time and cancels others.
        overrides = {**parameters["overrides"], "seed": number, **more}
        return self.create(
            "experiment/demo", {"recipe": parameters["recipe"], "overrides": overrides, "data_on": data_on}
        )

    @property
    def benchmark(self) -> str:
        """The first of its benchmarks."""
        return str(next(iter(YAML(typ="safe").load((self.root / "params.yaml").read_text())["benchmarks"])))

    def stages(self, run: str) -> dict[str, str]:
        """The state of each stage's task in a run."""
        tasks = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
        return {
            task["name"]: task["state"]["name"]
            for task in tasks
            if "@" in task["name"] or task["name"] in ("pretrain", "report")
        }

    def checks(self) -> dict[str, Callable[[], object]]:
        return {**super().checks(), "runs that MLflow believes to be running": self._tracked}

    def _tracked(self) -> list[str]:
        store = Store(f"sqlite:///{self.root}/mlflow.db")
        runs = store.search(experiment=store.experiment(EXPERIMENT))
        return [f"{run['name']} {run['id']}" for run in runs if run["status"] == "RUNNING"]


def make_canary(code: Path, folder: Path, **environment: str) -> Canary:
    """A clone that is ready for :meth:`Canary.start_server` and then `everest ops init`."""
    project = make_project(code, folder, {})
    port = free_port()
    more = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
    return Canary(folder, code, port, {**project.environment, **more})


def init(site: Canary) -> None:
    """What a guide's reader does once."""
    site.run(sys.executable, "-m", "pipeline.cli", "ops", "init", "--canary", "off")
