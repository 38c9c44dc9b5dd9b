"""One copy of a stage at a time, and none that outlives what started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import BusyError
from pipeline.experiments.stage import only_one


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_second_start_is_refused_with_the_first_ones_process_number() -> None:
    refused = pytest.raises(BusyError, match=rf"pretrain runs already .*process {os.getpid()} \(.*, since ")
    with only_one("pretrain"), refused, only_one("pretrain"):
        pytest.fail("two at once")


def test_another_stage_is_not_kept_waiting() -> None:
    with only_one("finetune-motion"), only_one("finetune-state_change"):
        pass


def test_a_killed_process_leaves_no_lock_behind() -> None:
    code = "import os\nfrom pipeline.experiments.stage import only_one\nwith only_one('x'): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with only_one("x"):
        pass
