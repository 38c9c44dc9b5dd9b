"""What a stage's process knows of whom it works for, and of the code that it runs."""

import subprocess
from pathlib import Path

import pytest

from pipeline.tracking.context import dirty_diff, registered_name


def test_one_of_a_series_never_becomes_the_candidate_of_the_chains_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVEREST_COMPARE", "EVEREST_REPEAT"):
        monkeypatch.delenv(name, raising=False)
    assert registered_name("demo", "motion") == "everest-demo-motion"
    monkeypatch.setenv("EVEREST_REPEAT", "split1-seed0")
    assert registered_name("demo", "motion") == "everest-demo-motion-repetition"
    monkeypatch.setenv("EVEREST_COMPARE", "tube-seed1")
    assert registered_name("demo", "motion") == "everest-demo-motion-comparison"


def test_uncommitted_changes_are_kept_whole_from_a_folder_below_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    for name in ("code.py", "dvc.lock"):
        (tmp_path / name).write_text("before\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "code")
    for name in ("code.py", "dvc.lock"):
        (tmp_path / name).write_text("after\n")
    cell = tmp_path / ".work" / "compare" / "tube-seed0"
    cell.mkdir(parents=True)
    monkeypatch.chdir(cell)
    assert "a/code.py" in dirty_diff()
    assert "dvc.lock" not in dirty_diff()
