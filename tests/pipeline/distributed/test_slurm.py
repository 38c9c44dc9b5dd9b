"""The sbatch script, run by stand-ins for SLURM's commands on this machine. It has not been run on a cluster."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.distributed.heartbeat import read
from pipeline.distributed.slurm import script
from pipeline.errors import InputError

#: Both nodes are this machine. A signal to the job reaches the tasks that srun started.
STANDINS = {
    "srun": """#!/bin/bash
shift
for node in 0 1; do SLURM_NODEID=$node GLOO_SOCKET_IFNAME=lo "$@" & echo $! >> tasks; done
code=0; for task in $(cat tasks); do wait $task || code=$?; done; exit $code
""",
    "scontrol": """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> asked; fi
""",
    "scancel": "#!/bin/bash\nkill -s USR1 $(cat tasks)\n",
    "dvc": '#!/bin/bash\necho dvc "$@" >> asked\n',
}


def test_it_is_a_valid_script_that_requeues_itself() -> None:
    text = script("finetune", "motion", nodes=4, gpus=8, hours=12, partition="gpu")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    for line in ("--nodes=4", "--gpus-per-node=8", "--time=720", "--partition=gpu", "--signal=B:USR1@180", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    assert "exec everest finetune motion'" in text
    assert "dvc commit --force finetune@motion" in text


@pytest.mark.parametrize(
    ("stage", "benchmark", "nodes", "message"),
    [
        ("pretrain", "motion", 2, "expected `pretrain`, or `finetune BENCHMARK`"),
        ("finetune", None, 2, "expected `pretrain`, or `finetune BENCHMARK`"),
        ("evaluate", "motion", 2, "expected `pretrain`"),
        ("pretrain", None, 0, "nodes = 0.*above 0"),
    ],
)
def test_what_cannot_be_launched_is_named(stage: str, benchmark: str | None, nodes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        script(stage, benchmark, nodes, gpus=8, hours=1)


def _submitted(here: Path, **overrides: Any) -> subprocess.Popen[str]:
    from small_training import ready

    params = ready(**overrides)
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    (here / "bin").mkdir()
    for name, text in STANDINS.items():
        (here / "bin" / name).write_text(text)
        (here / "bin" / name).chmod(0o755)
    (here / "job.sh").write_text(script("pretrain", None, nodes=2, gpus=1, hours=1))
    path = os.pathsep.join([str(here / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": str(os.getpid()), "PATH": path}
    return subprocess.Popen(["bash", "job.sh"], env=os.environ | job, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_nodes_train_to_the_end_and_hand_the_result_to_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = (job := _submitted(tmp_path)).communicate(timeout=200)[1]
    assert job.returncode == 0, said
    assert (tmp_path / "outputs/pretrain/model.safetensors").exists()
    assert (tmp_path / "asked").read_text() == "dvc commit --force pretrain\n"


@pytest.mark.slow
def test_when_its_time_is_up_all_nodes_save_and_the_job_goes_back_into_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = _submitted(tmp_path, pretrain__epochs=4000, pretrain__warmup_epochs=1.0)
    until = time.monotonic() + 120
    while time.monotonic() < until and not _stepping(tmp_path):
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=200)[1]
    assert said.count("stopped by SIGUSR1 after step") == 2, said
    assert job.returncode == 130
    assert (tmp_path / "asked").read_text() == f"requeue {os.getpid()}\n"
    assert list(tmp_path.glob(".work/pretrain/all/*/checkpoints/step-*"))


def _stepping(here: Path) -> bool:
    files = list(here.glob(".work/pretrain/all/*/beats*"))
    return len(files) == 2 and all(beat.step > 2 for file in files for beat in read(file)) and all(map(read, files))


@pytest.mark.parametrize(
    ("nodes", "gpus", "hours", "words"),
    [
        (10**9, 8, 1.0, "nodes = 1e"),
        (2, 10**6, 1.0, "gpus = 1e"),
        (2, 8, math.inf, "hours = inf"),
        (2, 8, math.nan, "nan"),
    ],
)
def test_a_job_that_no_cluster_could_run_is_refused(nodes: int, gpus: int, hours: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        script("pretrain", None, nodes, gpus, hours)
