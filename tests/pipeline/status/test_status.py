"""`everest status` of a real pre-training: while it runs, after it was killed, after it was stopped."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from ruamel.yaml import YAML

from pipeline.params.write import write_overrides
from pipeline.status.look import Looker
from pipeline.status.records import Stage
from pipeline.status.screen import screen
from tests.pipeline.status.conftest import Project

pytestmark = pytest.mark.slow

STEPS = 5000 * (18 // 8)


def pretraining() -> Stage:
    """The one stage that this folder knows of."""
    checkout = Looker().look().checkouts[0]
    assert [stage.name for stage in checkout.stages] == ["pretrain"]
    return checkout.stages[0]


def shown() -> str:
    return "\n".join(text for text, _ in screen(Looker().look()))


@pytest.fixture
def running(project: Project) -> Stage:
    if project.training is None or project.training.poll() is not None:
        project.start()
    project.wait_for(lambda: list(project.root.glob(".work/pretrain/all/*/checkpoints/*")) != [])
    project.wait_for(lambda: any(s.state == "running" for s in Looker().look().checkouts[0].stages))
    step = pretraining().training.step
    project.wait_for(lambda: pretraining().training.step > max(step, 5))
    return pretraining()


def test_a_running_training_shows_step_rate_time_left_memory_and_checkpoint(project: Project, running: Stage) -> None:
    figures = running.training
    assert (running.state, running.pid) == ("running", project.training.pid)
    assert figures.steps == STEPS
    assert 5 < figures.step < STEPS
    assert figures.left_seconds == pytest.approx((STEPS - figures.step) / figures.rate)
    assert len(figures.loss) >= 5
    assert all(0.3 < loss < 3 for loss in figures.loss)
    assert figures.checkpoint.step % 5 == 0
    assert time.time() - figures.checkpoint.at < 120
    assert figures.memory_gib > 0.2
    assert running.log == str(project.root / "words.log")
    assert running.sentence == ""
    text = shown()
    assert re.search(rf"▶ pretrain  for .*step \d+ of {STEPS} \(\d+ %\)  .* left", text)
    assert re.search(r"loss [\d.]+ [▁-█]+", text)


def test_looking_locks_and_writes_nothing(project: Project, running: Stage) -> None:
    def rest() -> set[tuple[str, int]]:
        files = project.root.rglob("*")
        return {(str(path), path.stat().st_size) for path in files if path.is_file() and "pretrain" not in str(path)}

    before = {entry for entry in rest() if "runs" not in entry[0] and "words" not in entry[0]}
    Looker().look()
    assert {entry for entry in rest() if "runs" not in entry[0] and "words" not in entry[0]} == before


def test_watching_redraws_in_place_and_ends_cleanly_on_ctrl_c(project: Project, running: Stage) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(sys.executable, [sys.executable, "-m", "pipeline.cli", "status", "--watch"], project.environment)
    out, asked, until = b"", False, time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                out += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
        if out.count("▶ pretrain".encode()) >= 2 and not asked:
            asked = os.write(terminal, b"\x03") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"\x1b[1A" in out  # up to the line where the last screen began
    assert out.rstrip().endswith(b"\x1b[?25h")  # the cursor is back
    assert b"Traceback" not in out


def test_a_killed_training_says_when_where_and_what_continues(project: Project, running: Stage) -> None:
    project.end(signal.SIGKILL)
    stage = pretraining()
    assert stage.state == "killed"
    assert stage.pid is None
    assert re.fullmatch(
        rf"killed without a word \d+ s ago at step \d+ of {STEPS}; `everest run` continues from step \d+",
        stage.sentence,
    )
    assert stage.training.left_seconds is None
    assert stage.training.memory_gib is None


def test_a_stopped_training_continues_from_the_step_where_it_was_stopped(project: Project, running: Stage) -> None:
    project.end(signal.SIGINT)
    stage = pretraining()
    step = stage.training.step
    assert stage.state == "stopped"
    assert re.fullmatch(
        rf"stopped \d+ s ago at step {step} of {STEPS}; `everest run` continues from step {step}", stage.sentence
    )
    assert stage.message == f"stopped by SIGINT after step {step}; saved. Start again to continue."
    assert f"■ pretrain  {stage.sentence}"[:40] in shown()


def test_it_says_which_edit_makes_stopped_work_start_afresh(project: Project) -> None:
    assert pretraining().state in ("stopped", "killed")
    before = YAML(typ="safe").load((project.root / "params.yaml").read_text())["pretrain"]["base_lr"]
    write_overrides(project.root / "params.yaml", {"pretrain.base_lr": 0.5, "compute.ranks": 1})
    try:
        sentence = pretraining().sentence
        assert f"begun with pretrain.base_lr = {before}, which is 0.5 in params.yaml" in sentence
        assert "compute" not in sentence
        assert "with what it began with `everest run` continues from step" in sentence
    finally:
        write_overrides(project.root / "params.yaml", {"pretrain.base_lr": before, "compute.ranks": 2})


def test_json_is_one_document_and_the_screen_is_drawn_without_a_terminal(project: Project) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "status"]
    done = [
        subprocess.run([*command, *more], env=project.environment, capture_output=True, text=True, check=True)
        for more in (["--json"], [])
    ]
    checkout = json.loads(done[0].stdout)["checkouts"][0]
    assert checkout["folder"] == str(project.root)
    assert checkout["stages"][0]["training"]["checkpoint"]["step"] > 0
    assert "\x1b" not in done[1].stdout
    assert "■ pretrain" in done[1].stdout
