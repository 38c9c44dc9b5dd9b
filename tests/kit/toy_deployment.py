"""A deployment whose one stage counts instead of training: real server, worker, DVC, gate and signals, in seconds.

The stage `pretrain` takes a step each 0.1 s, saves its count when it is told to stop, and goes on from there.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ports import free_port
from prefect_site import Site

TRAIN = """
import os, signal, sys, time
from pathlib import Path
from pipeline.system.processes import die_with_parent
die_with_parent(signal.SIGINT)
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
steps, work = int(Path("steps").read_text()), Path(os.environ["EVEREST_WORK"]) / "pretrain"
work.mkdir(parents=True, exist_ok=True)
saved, note = work / f"step-{steps}", Path(".work/progress/pretrain")
note.parent.mkdir(parents=True, exist_ok=True)
step = int(saved.read_text()) if saved.exists() else 0
(work / "began").open("a").write(f"{step}\\n")
while step < steps and not stop:
    time.sleep(0.1)
    step += 1
    note.with_suffix(".new").write_text(f"pretrain {step}/{steps}")
    note.with_suffix(".new").replace(note)
saved.write_text(str(step))
if stop:
    sys.exit(130)
Path("model").write_text("done")
"""
DVC = "stages:\n  pretrain:\n    cmd: python train.py\n    deps: [steps]\n    outs: [model]\n"
FLOW = """
from __future__ import annotations
import shutil
from pathlib import Path
from prefect import flow
from prefect.runtime import flow_run
from flows.chain.repro import workspace
from flows.chain.run import identity, run_stages, task_runner
from flows.chain.stages import Stage
from pipeline.params import load_params

@flow(name="toy", flow_run_name="toy: steps={steps}", task_runner=task_runner())
def toy(steps: int = 600) -> dict[str, str]:
    root = Path.cwd()
    folder = root / ".work" / "worktrees" / str(flow_run.id)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "dvc.yaml"):
        shutil.copyfile(root / name, folder / name)
    (folder / "steps").write_text(str(steps))
    shutil.copytree(root / ".dvc", folder / ".dvc", dirs_exist_ok=True)
    name = str(flow_run.id)
    where = workspace(folder, name, {"EVEREST_WORK": str(root / ".work"), **identity(name)}, root)
    where.environment["PYTHONPATH"] = CODE
    return run_stages([Stage("pretrain", trains=True)], load_params(Path(CODE) / "params.yaml"), where)
"""
PREFECT = """
name: toy
pull:
  - prefect.deployments.steps.set_working_directory: {directory: ROOT}
deployments:
  - {name: toy, entrypoint: "toyflow.py:toy", work_pool: {name: everest, job_variables: {stream_output: false}}}
"""


@dataclass
class Toy(Site):
    """The counting stage behind a server and a worker."""

    def submit(self, steps: int) -> str:
        return self.create("toy/toy", {"steps": steps})

    def worktrees(self) -> list[str]:
        """The toy flow takes no folder away."""
        return []

    def began(self) -> list[int]:
        """The step from which each start of the training went on."""
        path = self.root / ".work" / "pretrain" / "began"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def trains(self, run: str) -> bool:
        note = self.root / ".work" / "worktrees" / run / ".work" / "progress" / "pretrain"
        return note.exists() and self.state(run) == "Running"


def make_toy(code: Path, root: Path) -> Toy:
    """A project folder that is ready for :meth:`Toy.start_server` and :func:`deploy`."""
    root.mkdir(parents=True)
    (root / "train.py").write_text(TRAIN)
    (root / "dvc.yaml").write_text(DVC)
    (root / "toyflow.py").write_text(FLOW.replace("CODE", repr(str(code))))
    (root / "prefect.yaml").write_text(PREFECT.replace("ROOT", str(root)))
    home = root / ".work" / "prefect"
    home.mkdir(parents=True)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{code}{os.pathsep}{root}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    toy = Toy(root, code, port, environment)
    toy.run(sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet")
    return toy


def deploy(toy: Toy) -> None:
    """Pool, limit and deployment."""
    toy.run("prefect", "work-pool", "create", "everest", "--type", "process", "--overwrite")
    toy.ask("v2/concurrency_limits/", {"name": "gpu", "limit": 1, "active": True})
    toy.run("prefect", "--no-prompt", "deploy", "--all")


def forget(toy: Toy) -> None:
    """Take away what earlier runs left, so that the next one counts from 0."""
    shutil.rmtree(toy.root / ".work" / "pretrain", ignore_errors=True)
    shutil.rmtree(toy.root / ".dvc" / "cache", ignore_errors=True)
