"""What becomes of a training where SLURM answers late, wrongly or not at all: scripts stand for its commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.distributed.ends import RankEnd
from pipeline.distributed.slurm import follow
from pipeline.distributed.slurm.client import Job
from pipeline.distributed.slurm.request import Request
from pipeline.distributed.start import start
from pipeline.errors import BusyError, EverestError
from pipeline.params import load_params
from pipeline.system.files import write_json
from pipeline.system.processes import StopRequest

#: What `scancel` does while the controller is away, and one that works at the second attempt and leaves a mark.
AWAY = "echo 'scancel: error: Unable to contact slurm controller' >&2; touch asked; exit 1"
LATE = f"[ -e asked ] && touch told && exit 0\n{AWAY}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, whose scripts are found before the machine's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return tmp_path


def command(name: str, text: str) -> None:
    Path(name).write_text(f"#!/bin/sh\n{text}\n")
    Path(name).chmod(0o755)


def said_at_a_turns_end(scancel: str, last: str) -> str:
    """What the batch script of job 7 says when SLURM's notice comes; its ranks end when `last` is there."""
    command("scontrol", "echo NodeAddr=127.0.0.1")
    command("scancel", scancel)
    command("srun", f"touch running; while [ ! -e {last} ]; do sleep 0.1; done; exit 1")
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURMD_NODENAME": "n1"}
    words = [sys.executable, "-m", "pipeline.distributed.slurm.batch", "--work", ".", "--", "ranks"]
    child = subprocess.Popen(words, env=os.environ | variables, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not Path("running").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    child.send_signal(signal.SIGUSR1)
    return child.communicate(timeout=60)[1]


def test_the_notice_of_a_turns_end_is_passed_on_until_slurm_takes_it() -> None:
    said = said_at_a_turns_end(LATE, "told")
    assert said.count("failed and is tried until it works: scancel: error: Unable to contact slurm controller") == 1
    assert "compute.slurm.hours is too short" in said


def test_ranks_that_never_heard_of_their_turns_end_are_not_said_to_have_too_few_hours() -> None:
    said = said_at_a_turns_end(AWAY, "asked")
    assert "is tried until it works" in said
    assert "compute.slurm.hours" not in said


def test_a_stage_tells_its_job_to_save_until_slurm_takes_it_and_once_only() -> None:
    command("scancel", LATE)
    job, order = Job(7, "RUNNING", "", "n1"), follow._StopOrder(7)
    order.give(job)
    assert not Path("told").exists()
    order.give(job)
    assert Path("told").exists()
    Path("told").unlink()
    order.give(job)
    assert not Path("told").exists(), "a second one would end the ranks at once"


def test_a_job_of_the_same_number_that_is_not_this_trainings_is_neither_followed_nor_in_the_way(here: Path) -> None:
    command("squeue", "echo '7|RUNNING|None|n7|/of/somebody/else'")
    write_json(here / follow.RECORD, {"job": 7})
    assert follow.living(here) is None
    follow.refuse_beside(here)
    assert not (here / follow.RECORD).exists()
    request = Request(here, 1, 1, 0, 1.0)
    with contextlib.ExitStack() as held:
        end = follow._watch(request, 7, StopRequest(), follow._Tail(request.log, from_end=False), None, held)
    assert end == follow.End(7, "GONE", "", None)


@pytest.mark.parametrize("record", ["", "[]", '{"job": "seven"}', '{"job": 7}'])
def test_a_job_of_this_training_is_found_whether_its_record_can_be_read_or_not(here: Path, record: str) -> None:
    command("squeue", f"echo '7|RUNNING|None|n7|{here}'")
    (here / follow.RECORD).write_text(record)
    assert follow.living(here) == Job(7, "RUNNING", "None", "n7", str(here))
    with pytest.raises(BusyError, match="SLURM job 7 is RUNNING on n7 with this training. Cure: `scancel 7`"):
        follow.refuse_beside(here)


def test_where_slurm_cannot_be_asked_a_local_start_names_the_record_that_is_in_its_way(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(here / follow.RECORD, {"job": 7})
    command("squeue", AWAY)
    with pytest.raises(
        BusyError, match=r"cannot be asked whether it lives: squeue: .*Unable to contact.*remove /.*json"
    ):
        follow.refuse_beside(here)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BusyError, match=r"cannot be asked whether it lives: it is not installed here\. Cure: where"):
        follow.refuse_beside(here)


def test_a_job_that_is_cancelled_while_it_waits_does_not_end_as_an_earlier_start_did(here: Path) -> None:
    write_json(here / "status.json", RankEnd("failed", 3, 40, 1.0, "bug", "IndexError", "last week").as_dict())
    command("sbatch", "echo 7")
    command("squeue", f"echo '7|CANCELLED|None||{here}'")
    values = load_params(Path(__file__).parents[3] / "params.yaml").compute
    with pytest.raises(EverestError, match="SLURM job 7 was cancelled by somebody else"):
        start("ranks", [], values.model_copy(update={"launcher": "slurm"}), "pretrain", here)
