"""What moves on a terminal while the work runs, and that nothing of it is in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline.system import progress
from pipeline.system.progress import Bar, Line, clock, counter, noted, stage_line, wanted
from pipeline.training.journal import Progress

OWNER = """
import os, subprocess, sys, time
from pipeline.system.progress import stage_line, watched
with watched("demo"):
    time.sleep(0.7)  # an import that takes long
    with stage_line("train@a") as environment, stage_line("train@b"):
        subprocess.run([sys.executable, "-c", sys.argv[1]], env=os.environ | environment, check=True)
sys.stderr.write("at the end\\n")
"""
STAGE = """
import sys, time
from pipeline.system.progress import Line
sys.stderr.write("a warning of the stage\\n")
line = Line("train")
for step in range(6):
    line.show(f"step {step} of 6")
    time.sleep(0.25)
"""


def on_terminal(*command: str, columns: int = 60, **environment: str) -> tuple[str, int]:
    """What a command shows on a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name != "EVEREST_QUIET"}
    process = subprocess.Popen(command, stderr=theirs, env=kept | environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # nobody holds the other end
            break
    os.close(ours)
    return shown.decode(), process.wait()


def test_on_a_terminal_something_moves_all_the_time_and_what_is_said_stands_above(root: Path) -> None:
    shown, code = on_terminal(sys.executable, "-c", OWNER, STAGE)
    assert code == 0
    before_stages = shown.partition("train@a")[0]
    assert len(re.findall(r"[|/\\-] demo 0:0\d", before_stages)) >= 2, "while it imports"
    assert "train@a 0:01  train step" in shown
    assert "train@b 0:01  " in shown, "a line for each stage"
    assert shown.count("a warning of the stage") == 1
    assert re.search(r"\x1b\[Ja warning of the stage\r\n", shown), "on a line of its own"
    assert shown.endswith("\x1b[Jat the end\r\n"), "the lines are gone"


def test_a_narrow_terminal_cuts_lines_instead_of_wrapping_them(root: Path) -> None:
    shown, _ = on_terminal(sys.executable, "-c", OWNER, STAGE, columns=16)
    drawn = [part for line in shown.split("\r\n") for part in line.split("\x1b[J")]
    assert max(len(part) for part in drawn if "train@a" in part) <= 15


def test_without_a_terminal_nothing_but_lines_is_written(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OWNER, STAGE], capture_output=True, text=True, check=True)
    assert done.stderr == "a warning of the stage\nat the end\n"


def test_quiet_is_quiet_on_a_terminal_too(root: Path) -> None:
    shown, _ = on_terminal(sys.executable, "-c", OWNER, STAGE, EVEREST_QUIET="1")
    assert shown == "a warning of the stage\r\nat the end\r\n"


def test_an_error_leaves_the_terminal_as_it_was(root: Path) -> None:
    code = "from pipeline.system.progress import watched\nwith watched('x'):\n    raise SystemExit('no such thing')"
    shown, status = on_terminal(sys.executable, "-c", code)
    assert status == 1
    assert shown.endswith("no such thing\r\n")


def test_a_command_moves_on_a_terminal_before_it_has_read_its_parameters(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: x\n")
    code = f"import os, sys; os.chdir({str(tmp_path)!r}); sys.argv = ['everest', 'run']; "
    code += "from pipeline.cli import main; main()"
    shown, status = on_terminal(sys.executable, "-c", code)
    assert status == 2
    assert "run 0:00" in shown
    assert "error: " in shown.rpartition("\x1b[J")[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EVEREST_QUIET", raising=False)
    path = tmp_path / "demo"
    path.touch()
    monkeypatch.setenv("EVEREST_PROGRESS", str(path))
    return path


def test_lines_counters_and_bars_write_where_the_owner_reads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted()
    line = Line("pretrain")
    line.show("step 1")
    with monkeypatch.context() as slow:
        slow.setattr(progress, "INTERVAL", 60.0)
        line.show("too soon after")
    assert file.read_text() == "pretrain step 1"
    line.close()
    assert file.read_text() == ""
    seen = []
    for item in counter("checking")(["a", "b"], 2):
        seen.append(item)
        assert file.read_text().startswith("checking 0/2")
    assert seen == ["a", "b"]
    bar = Bar("evaluate")
    bar(1, 3)
    assert file.read_text().startswith("evaluate 1/3")
    bar(3, 3)
    assert file.read_text() == ""


def test_a_stages_line_lives_as_long_as_the_stage_and_outlives_no_owner(file: Path) -> None:
    with stage_line("compare/dvc.yaml:compare") as environment:
        own = Path(environment["EVEREST_PROGRESS"])
        assert own.parent == file.parent
        assert own.exists()
    assert not own.exists()
    line = Line()
    file.unlink()
    line.show("the owner has ended")
    assert not file.exists()


def test_a_clock_reads_as_people_read_it() -> None:
    assert [clock(s) for s in (0.9, 27, 723, 3723)] == ["0:00", "0:27", "12:03", "1:02:03"]


def test_a_trainings_step_is_noted_where_nobody_looks_and_by_the_first_rank_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with noted(tmp_path / "progress" / "pretrain"):
        note = tmp_path / "progress" / "pretrain"
        Progress("pretrain", main=False).step(2, 10, 0.5)
        assert note.read_text() == ""
        line = Progress("pretrain", main=True)
        line.step(3, 10, 0.5)
        assert re.search(r"^pretrain .* 3/10  loss 0.5000", note.read_text())
        line.say("pretrain: it is over")
        line.close()
    assert capfd.readouterr().err == ""
