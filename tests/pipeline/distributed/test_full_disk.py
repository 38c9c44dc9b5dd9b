"""A disk that takes not even the record of how a rank ended: the end is told all the same, and nothing begins again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.distributed import heartbeat
from pipeline.distributed import launch as launching
from pipeline.distributed import start as starting
from pipeline.distributed.launch import Watch, launch
from pipeline.distributed.node import Plan
from pipeline.distributed.slurm import follow
from pipeline.distributed.slurm.request import Request
from pipeline.errors import EverestError
from pipeline.system.disk import DiskFullError

#: A rank on a disk that has no byte left once it runs.
RANK = """
import sys
from pathlib import Path
from pipeline.distributed import ends
from pipeline.distributed.rank import live

def full(path, record):
    raise OSError(28, "No space left on device", str(path))

def body(ranks, pulse, stop):
    ends.write_json = full
    if "done" not in sys.argv:
        (Path.cwd() / "begun").open("a").write("x")
        full("checkpoints/step-5", None)

if __name__ == "__main__":
    sys.exit(live(Path(sys.argv[sys.argv.index("--work") + 1]), body, "cpu"))
"""


@pytest.mark.parametrize("how", ["fails", "done"])
def test_a_rank_whose_end_the_disk_does_not_take_says_it_and_fails(tmp_path: Path, how: str) -> None:
    (tmp_path / "full.py").write_text(RANK)
    heartbeat.create(tmp_path / "beats", 1)
    command = [sys.executable, "full.py", how, "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "its end is not recorded" in done.stderr
    assert ("rank 0 failed: checkpoints/step-5: no space left on the disk" in done.stderr) is (how == "fails")


def test_a_launcher_that_finds_no_record_and_a_full_disk_names_it_and_starts_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full.py").write_text(RANK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(Path(__file__).parents[3]))))
    monkeypatch.setattr(launching, "has_room", lambda _: False)

    def refused(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(launching, "write_json", refused)
    with pytest.raises(EverestError, match=r"no space left on the disk.*Cure: free some"):
        launch("full", [], ranks=1, work=tmp_path, threads=1, watch=Watch(60, 2))
    assert (tmp_path / "begun").read_text() == "x"


def test_a_job_that_could_state_no_end_for_want_of_room_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = iter([follow.End(7, "FAILED", "NonZeroExitCode", None)])
    monkeypatch.setattr(follow, "follow", lambda *_: next(jobs))
    monkeypatch.setattr(starting, "has_room", lambda _: False)
    with pytest.raises(DiskFullError, match="no space left on the disk"):
        starting._as_job(Request(tmp_path, 1, 1, 0, 1.0), Plan("ranks", (), tmp_path, 1, None, Watch()))
