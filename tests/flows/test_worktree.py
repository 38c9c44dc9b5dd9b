"""A flow run's worktree: the last commit, its own params.yaml, the checkout's cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import worktree
from pipeline.errors import InputError


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", ".gitignore"):
        (folder / name).write_text((root / name).read_text())
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    for command in (
        ["init", "-q"],
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_overrides_are_written_and_comments_stay(checkout: Path) -> None:
    folder = worktree.create(checkout, "run", None, {"finetune.epochs": 2, "benchmarks.motion.finetune.epochs": 3})
    text = (folder / "params.yaml").read_text()
    params = yaml.safe_load(text)
    assert params["finetune"]["epochs"] == 2
    assert params["benchmarks"]["motion"]["finetune"]["epochs"] == 3
    assert "# paper: 0.6" in text
    assert yaml.safe_load((checkout / "params.yaml").read_text())["finetune"]["epochs"] != 2


def test_the_dvc_cache_is_the_checkouts_own(checkout: Path) -> None:
    folder = worktree.create(checkout, "run", None, {})
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == checkout / ".dvc" / "cache"


def test_uncommitted_edits_stay_behind_and_that_is_said(checkout: Path) -> None:
    assert worktree.left_behind(checkout) is None
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    assert "uncommitted" in str(worktree.left_behind(checkout))
    assert (worktree.create(checkout, "run", None, {}) / "dvc.yaml").read_text() != "stages: {}\n"


def test_a_bad_override_leaves_the_file_as_it_was(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_text()
    with pytest.raises(InputError, match="finetune.epochs"):
        worktree.write_overrides(checkout / "params.yaml", {"finetune.epochs": -1})
    assert (checkout / "params.yaml").read_text() == before


def test_a_removed_worktree_leaves_nothing(checkout: Path) -> None:
    folder = worktree.create(checkout, "run", None, {})
    worktree.remove(checkout, folder)
    assert not folder.exists()
