"""A training as a job of a real SLURM (slurmctld and two slurmds on this machine): RELIABILITY's row 28."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import Cluster

from pipeline.distributed.heartbeat import read
from pipeline.distributed.launch import locked
from pipeline.distributed.slurm import client, follow
from pipeline.distributed.slurm.request import Request, exported
from pipeline.distributed.start import start
from pipeline.errors import BusyError, InputError
from pipeline.params import ComputeParams, load_params
from pipeline.system.files import read_json, write_json
from pipeline.training.checkpoint import Checkpoints
from tests.faults import rank_trials
from tests.faults.checkpoint_trials import newest_step

needs_slurm = pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing()))

#: What a stage does: hold the work folder, start its ranks as compute says, say how they ended.
STAGE = (
    "import logging, sys; from pathlib import Path; from pipeline.errors import EverestError\n"
    "from pipeline.distributed.launch import locked\n"
    "from pipeline.distributed.start import start\n"
    "from pipeline.params import ComputeParams\n"
    "logging.basicConfig(level=logging.WARNING, format='%(message)s')\n"
    "work, compute = Path(sys.argv[1]), ComputeParams.model_validate_json(sys.argv[2])\n"
    "try:\n"
    "    with locked(work) as lock:\n"
    "        start('tests.faults.toy', [], compute, 'pretrain', work, lock)\n"
    "except EverestError as error:\n"
    "    print(f'{type(error).__name__}: {error}', file=sys.stderr)\n"
    "    sys.exit(error.exit_code)\n"
)
#: One rank on each of two nodes, a quarter of a minute of steps; only a stop saves.
LONG = {"seconds": 0.1, "epochs": 15, "dropout": 0.0, "trace": True, "checkpoint_every_steps": 10**6}
STEPS = 15 * 8
#: [s] that anything may take while the machine is busy with other things.
PATIENCE = 500


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # sockets have short names
    try:
        with slurm_cluster.running(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster, with nothing on it before and after; the current folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path.cwd()), str(Path(__file__).parents[3]))))
    cluster.wait_idle()
    yield cluster
    cluster.empty()


def _compute(**slurm: object) -> ComputeParams:
    values = load_params(Path(__file__).parents[3] / "params.yaml").compute.model_dump()
    values |= {"launcher": "slurm", "ranks": 1, "device": "cpu", "threads_per_rank": 1, "stall_seconds": 120.0}
    values["slurm"] |= {"nodes": 2, **slurm}
    return ComputeParams.model_validate(values)


class Stage:
    """A stage's process, its work folder and what it said."""

    def __init__(self, work: Path, compute: ComputeParams, wish: Mapping[str, object] | None = None) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        if wish is not None:
            (work / "toy.json").write_text(json.dumps(wish))
        code = [sys.executable, "-c", STAGE, str(work), compute.model_dump_json()]
        self.process = subprocess.Popen(code, stderr=subprocess.PIPE, text=True)

    @property
    def job(self) -> int:
        until((self.work / follow.RECORD).exists, "a submitted job")
        return int(read_json(self.work / follow.RECORD)["job"])

    def until_step(self, step: int) -> None:
        """Until the ranks of both nodes of this turn are beyond a step."""
        until(lambda: all(_step(self.work / name) > step for name in ("beats", "beats-node-1")), f"step {step}")

    def end(self) -> tuple[int, str]:
        words = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, words


def _step(beats: Path) -> int:
    return min((beat.step for beat in read(beats)), default=-1) if beats.exists() else -1


def until(what: Callable[[], object], name: str) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, f"no {name}"
        time.sleep(0.2)


def twice(work: Path) -> int:
    """Samples that some epoch saw more than once: steps that were lost and done again."""
    return sum(count - 1 for count in Counter((work / "trace.txt").read_text().split("\n")[:-1]).values())


@needs_slurm
@pytest.mark.slow
def test_two_nodes_train_as_one_job_with_the_losses_of_one_machine(empty: Cluster, tmp_path: Path) -> None:
    rank_trials.forked(tmp_path / "one", 2, {"dropout": 0.0, "epochs": 3})
    stage = Stage(tmp_path / "two", _compute(), {"dropout": 0.0, "epochs": 3})
    code, said = stage.end()
    assert code == 0, said
    assert rank_trials.losses(tmp_path / "two") == rank_trials.losses(tmp_path / "one")
    assert "was submitted: --nodes=2 --ntasks-per-node=1" in said
    assert "ranks: turn 1 of job" in said  # the job's own log, streamed
    assert not (tmp_path / "two" / follow.RECORD).exists()


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_the_stage_lets_the_ranks_save_and_ends_the_job(
    empty: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    stage = Stage(tmp_path / "work", _compute(), LONG)
    stage.until_step(5)
    job = stage.job
    stage.process.send_signal(number)
    began = time.monotonic()
    code, said = stage.end()
    assert code == 130, said
    assert time.monotonic() - began < 60
    assert f"SLURM job {job} was stopped by {number.name}: stopped by SIGUSR1 after step" in said
    assert client.look(job).state == "CANCELLED"  # type: ignore[union-attr]
    saved = newest_step(Checkpoints(stage.work / "checkpoints"))
    assert saved == len(rank_trials.losses(stage.work)) > 5


@needs_slurm
@pytest.mark.slow
def test_a_job_that_is_requeued_goes_on_from_the_step_that_it_reached_and_a_new_stage_finds_it_again(
    empty: Cluster, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "work", _compute(), LONG)
    stage.until_step(5)
    job = stage.job
    stage.process.kill()  # the submitter dies; nobody tells the job
    stage.process.wait()
    empty.ask("scontrol", "requeue", str(job))
    until(lambda: client.look(job).state == "RUNNING" and _turn(stage.work) == 2, "second turn")  # type: ignore[union-attr]
    (stage.work / follow.RECORD).unlink()  # as if it had died before it noted the number
    again = Stage(tmp_path / "work", _compute())
    code, said = again.end()
    assert code == 0, said
    assert f"SLURM job {job} is RUNNING" in said
    assert "found again, nothing was submitted" in said
    assert len(rank_trials.losses(stage.work)) == STEPS
    assert twice(stage.work) == 0


def _turn(work: Path) -> int:
    log = work / "slurm.log"
    return log.read_text().count("ranks: turn ") if log.exists() else 0


@needs_slurm
@pytest.mark.slow
def test_before_its_time_is_up_a_job_saves_and_goes_back_into_the_queue(empty: Cluster, tmp_path: Path) -> None:
    # SLURM counts minutes: the notice comes 30 s (up to 90 s, by its own word) before the end of the second.
    stage = Stage(tmp_path / "work", _compute(hours=2 / 60), LONG | {"seconds": 1.0})
    until(lambda: _turn(stage.work) == 2, "second turn")
    saved = newest_step(Checkpoints(stage.work / "checkpoints"))
    assert saved == len(rank_trials.losses(stage.work)) > 0
    stage.until_step(saved)
    stage.process.send_signal(signal.SIGTERM)
    code, said = stage.end()
    assert code == 130, said
    assert said.count("stopped by SIGUSR1 after step") >= 2
    assert len(rank_trials.losses(stage.work)) > saved
    assert twice(stage.work) == 0


@needs_slurm
@pytest.mark.slow
def test_when_a_node_is_lost_the_job_waits_for_another_and_loses_no_more_than_since_its_checkpoint(
    empty: Cluster, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "work", _compute(), LONG | {"checkpoint_every_steps": 4})
    stage.until_step(9)
    empty.kill_node("n2")
    empty.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    until(lambda: client.look(stage.job).state == "PENDING", "requeued job")  # type: ignore[union-attr]
    empty.start_node("n2")
    empty.ask("scontrol", "update", "nodename=n2", "state=resume")
    code, said = stage.end()
    assert code == 0, said
    assert "is PENDING" in said
    assert len(rank_trials.losses(stage.work)) == STEPS
    assert twice(stage.work) <= 8 * 8  # a step has 8 samples; two checkpoints may be on their way


@needs_slurm
@pytest.mark.slow
def test_a_fault_of_the_ranks_is_told_as_on_this_machine(empty: Cluster, tmp_path: Path) -> None:
    wish = {"fail_at": 3, "rank": 0, "message": "a bug", "always": True}
    code, said = Stage(tmp_path / "work", _compute(nodes=1), wish).end()
    assert code == 1
    assert "EverestError: rank 0 failed at step 3: RuntimeError: a bug" in said


@needs_slurm
def test_a_job_that_waits_is_cancelled_at_once(empty: Cluster, tmp_path: Path) -> None:
    blocker = empty.ask("sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600")
    until(lambda: client.look(int(blocker)).state == "RUNNING", "blocker")  # type: ignore[union-attr]
    stage = Stage(tmp_path / "work", _compute(), LONG)
    job = stage.job
    until(lambda: client.look(job).state == "PENDING", "waiting job")  # type: ignore[union-attr]
    stage.process.send_signal(signal.SIGTERM)
    code, said = stage.end()
    assert (code, client.look(job).state) == (130, "CANCELLED"), said  # type: ignore[union-attr]
    assert "start again to continue" in said


@needs_slurm
def test_what_slurm_refuses_is_said_with_its_own_words(empty: Cluster, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"invalid partition specified: nowhere.*Cure: change compute.slurm"):
        start("tests.faults.toy", [], _compute(partition="nowhere"), "pretrain", tmp_path)


@needs_slurm
def test_what_a_job_trains_is_not_trained_here_as_well(empty: Cluster, tmp_path: Path) -> None:
    comment = f"--comment={tmp_path}"
    job = empty.ask("sbatch", "--parsable", comment, "--output=/dev/null", "--wrap=sleep 600").strip()
    write_json(tmp_path / follow.RECORD, {"job": int(job)})
    local = _compute().model_copy(update={"launcher": "local"})
    with pytest.raises(BusyError, match=rf"SLURM job {job} is .* Cure: `scancel {job}`"), locked(tmp_path):
        start("tests.faults.toy", [], local, "pretrain", tmp_path)


def _request(**more: object) -> Request:
    values = {"work": Path("/shared/.work/finetune/motion/0a1b"), "nodes": 2, "ranks": 4, "gpus": 4, "hours": 12.0}
    return Request(**(values | more))  # type: ignore[arg-type]


def test_a_request_is_what_sbatch_is_told() -> None:
    options = _request(partition="gpu", account="vision", cpus_per_rank=8, extra={"qos": "long"}).options()
    assert options[0] == "--job-name=everest-finetune-motion-0a1b"
    for option in (
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=32", "--time=720",
        "--signal=B:USR1@180", "--requeue", "--open-mode=append", "--partition=gpu", "--account=vision", "--qos=long",
    ):  # fmt: skip
        assert option in options
    assert not [o for o in _request(gpus=0).options() if "gpus" in o or "partition" in o]


def test_the_script_is_one_command_of_sh() -> None:
    text = _request(work=Path("/shared/it's/a b/c")).script(["run", "what's it"])
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert text.startswith("#!/bin/sh\n")


def test_no_secret_and_nothing_of_another_job_travels_into_slurms_files() -> None:
    kept = {"PATH": "/bin", "EVEREST_WORK": "/w", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a", "NCCL_DEBUG": "INFO"}
    left = {
        "MLFLOW_TRACKING_PASSWORD": "p", "AWS_SECRET_ACCESS_KEY": "k", "PREFECT_API_AUTH_STRING": "a:b",
        "HF_TOKEN": "t", "DATABASE": "postgresql://u:pw@host/db", "SLURM_JOB_ID": "1", "PET_NNODES": "2",
        "CUDA_VISIBLE_DEVICES": "0",
    }  # fmt: skip
    assert exported(kept | left) == kept


def test_without_slurm_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        InputError, match=r"compute.launcher = 'slurm', and squeue is not installed.*Cure: start the run"
    ):
        client.look(1)
