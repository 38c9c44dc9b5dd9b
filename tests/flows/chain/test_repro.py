"""One DVC stage as a child process: what DVC did is read from DVC itself, in a real DVC project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.chain.guard import Children
from flows.chain.repro import Outcome, StageFailed, _last_error, failure, repro, workspace
from pipeline.experiments.workspace import Workspace

STAGES = """
stages:
  copy:
    cmd: cp in.txt out.txt
    deps: [in.txt]
    outs: [out.txt]
  fails:
    cmd: "echo 'error: in.txt holds x, expected y. Cure: write y.'; exit 1"
    deps: [in.txt]
  dies:
    cmd: exec python3 -c "import os; os.kill(os.getpid(), 9)"
    deps: [in.txt]
"""


@pytest.fixture
def where(tmp_path: Path) -> Workspace:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    here = workspace(tmp_path, "test", {})
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet"], cwd=tmp_path, env=dict(here.environment), check=True
    )
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "in.txt").write_text("one")
    return here


def test_a_stage_runs_then_is_unchanged_then_comes_from_the_run_cache(where: Workspace) -> None:
    assert repro("copy", where, Children()) is Outcome.RAN
    assert repro("copy", where, Children()) is Outcome.UNCHANGED
    (where.folder / "in.txt").write_text("two")
    assert repro("copy", where, Children()) is Outcome.RAN
    (where.folder / "in.txt").write_text("one")
    assert repro("copy", where, Children()) is Outcome.RESTORED
    assert (where.folder / "out.txt").read_text() == "one"


def test_a_failing_stage_repeats_its_own_error_and_names_its_log(where: Workspace) -> None:
    with pytest.raises(StageFailed, match=r"fails failed: error: in.txt holds x, expected y. Cure: write y."):
        repro("fails", where, Children())
    assert "expected y" in (where.logs / "fails.log").read_text()


def test_whoever_keeps_dvc_busy_is_part_of_the_message() -> None:
    output = (
        "Running stage 'x':\nERROR: '/p/data/cache/x' is busy, it is being blocked by:\n  (PID 4711): dvc repro\n\n"
        "If there are no processes with such PIDs, you can manually remove '/p/.dvc/tmp/rwlock' and try again.\n"
    )
    assert _last_error(output).splitlines() == [
        "ERROR: '/p/data/cache/x' is busy, it is being blocked by:",
        "  (PID 4711): dvc repro",
    ]


def test_every_fault_of_a_stage_is_part_of_the_message() -> None:
    output = "error: params.yaml: seed = -1: x. Cure: y\nparams.yaml: a = 2: x. Cure: y\nERROR: failed to reproduce 'x'"
    assert _last_error(output).count("Cure") == 2
    assert _last_error("all is well") == ""


@pytest.mark.parametrize(
    ("code", "output", "words"),
    [
        (-9, "Running stage 'pretrain':\n", "was ended, its dvc process being killed by SIGKILL"),
        (
            1,
            "WARNING: no\nerror: an older one\nERROR: failed to reproduce 'pretrain': "
            "failed to run: everest pretrain, exited with -9\n",
            "was killed by SIGKILL: by hand, or for want of memory",
        ),
        (1, "error: the cause. Cure: this.\nERROR: failed to reproduce 'x': failed to run: y, exited with 1\n",
         "failed: error: the cause. Cure: this."),
        (255, "", "failed: exit code 255."),
    ],
)  # fmt: skip
def test_the_end_of_a_stage_is_one_line_with_its_cause(code: int, output: str, words: str) -> None:
    line = failure(code, output)
    assert line.startswith(words)
    assert "\n" not in line
    assert "Cure" in line or "exit code" in line


def test_a_killed_stage_is_told_by_the_signal_that_ended_it(
    where: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageFailed, match=r"dies was killed by SIGKILL.*Cure[^\n]*\nIts log: .*dies\.log"):
        repro("dies", where, Children())
    assert capfd.readouterr().err == "", "DVC's words are in the log"
