"""A git worktree of a checkout: the files of a commit, the checkout's DVC cache, nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.config import Config

from pipeline.errors import InputError
from pipeline.system import worktree


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    return make_checkout(root, tmp_path / "checkout")


def make_checkout(root: Path, folder: Path) -> Path:
    """A repository with this project's parameters and an empty DVC cache."""
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


@pytest.fixture
def folder(checkout: Path) -> Path:
    folder = checkout / ".work" / "worktrees" / "run"
    worktree.create(checkout, folder)
    return folder


def test_the_dvc_cache_is_the_checkouts_own(checkout: Path, folder: Path) -> None:
    worktree.share_cache(checkout, folder)
    assert worktree.dvc_cache(folder) == checkout / ".dvc" / "cache"


def test_a_cache_that_lies_elsewhere_is_shared_too(checkout: Path, folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "cache", "dir", str(tmp_path / "big")], cwd=checkout, check=True)
    worktree.share_cache(checkout, folder)
    assert worktree.dvc_cache(folder) == tmp_path / "big"


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("", {}),
        ("[cache]\n    type = hardlink\n", {"type": ["hardlink"]}),
        ("['cache']\ntype = symlink\n[core]\nremote = near", {"type": ["symlink"]}),
        ("[core]\n    remote = near\n[ Cache ] # ours\n  'dir' = ../../big\n    shared = group\n", {"shared": "group"}),
        ("[cache]\ntype = copy\n['remote \"near\"']\n    url = /srv/near\n    dir = x", {"type": ["copy"]}),
    ],
)
def test_own_settings_of_the_cache_and_a_relative_one_leave_it_shared(
    checkout: Path, folder: Path, text: str, more: dict[str, object]
) -> None:
    (checkout / ".dvc" / "config.local").write_text(text)
    before = Config.load_file(str(checkout / ".dvc" / "config.local"))
    cache = worktree.dvc_cache(checkout)
    worktree.share_cache(checkout, folder)
    after = Config.load_file(str(folder / ".dvc" / "config.local"))
    local = {key: [value] if key == "type" else value for key, value in after.pop("cache").items()}
    assert local == {"dir": str(cache), **more}
    assert after == {key: value for key, value in before.items() if key != "cache"}
    assert ("big" in str(cache)) == ("big" in text)


def test_a_cache_whose_path_has_umlauts_and_quotes_is_shared_too(root: Path, tmp_path: Path) -> None:
    checkout = make_checkout(root, tmp_path / 'Übung "7"')
    worktree.create(checkout, checkout / "run")
    worktree.share_cache(checkout, checkout / "run")
    assert worktree.dvc_cache(checkout / "run") == checkout / ".dvc" / "cache"


def test_a_folder_without_dvc_has_no_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no DVC project: .*Cure: run in the project's root"):
        worktree.dvc_cache(tmp_path)


def test_uncommitted_edits_stay_behind_and_that_is_said(checkout: Path) -> None:
    assert worktree.left_behind(checkout) is None
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    assert "uncommitted" in str(worktree.left_behind(checkout))
    worktree.create(checkout, checkout / "other")
    assert (checkout / "other" / "dvc.yaml").read_text() != "stages: {}\n"


def test_a_commit_that_the_clone_lacks_is_refused(checkout: Path) -> None:
    with pytest.raises(InputError, match=r"commit 1{40} is not in this clone.*git fetch"):
        worktree.create(checkout, checkout / "other", "1" * 40)
    assert not (checkout / "other").exists()


def test_a_removed_worktree_leaves_nothing(checkout: Path, folder: Path) -> None:
    worktree.remove(checkout, folder)
    assert not folder.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True, check=True)
    assert listed.stdout.count("\n") == 1
    worktree.remove(checkout, folder)


@pytest.mark.parametrize("cut", ["while git checked it out", "before git had its name", "in the middle of its removal"])
def test_half_a_worktree_is_made_anew(checkout: Path, folder: Path, cut: str) -> None:
    noted = checkout / ".git" / "worktrees" / "run"
    (folder / "dvc.yaml").unlink()
    if cut == "while git checked it out":
        (noted / "index").rename(noted / "index.lock")
        (noted / "locked").write_text("initializing")
    elif cut == "before git had its name":
        (folder / ".git").unlink()
    else:
        shutil.rmtree(noted)
    worktree.create(checkout, folder)
    assert (folder / "dvc.yaml").read_text() == (checkout / "dvc.yaml").read_text()
    assert subprocess.run(["git", "status", "-s"], cwd=folder, capture_output=True, check=True).stdout == b""


def test_a_whole_worktree_stays_as_it_is(checkout: Path, folder: Path) -> None:
    (folder / "params.yaml").write_text("seed: 1\n")
    worktree.create(checkout, folder)
    assert (folder / "params.yaml").read_text() == "seed: 1\n"


def test_a_worktree_whose_folder_is_gone_is_made_anew_and_removed_without_a_trace(checkout: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    worktree.create(checkout, folder)
    shutil.rmtree(folder)
    worktree.remove(checkout, folder)
    assert list((checkout / ".git").glob("worktrees/*")) == []
    assert list(folder.parent.iterdir()) == []


def test_a_removal_that_was_killed_is_ended_by_the_next(checkout: Path, folder: Path) -> None:
    folder.rename(folder.with_name(".run.old"))
    worktree.create(checkout, folder)
    worktree.remove(checkout, folder)
    assert list((checkout / ".git").glob("worktrees/*")) == []
    assert list(folder.parent.iterdir()) == []


def test_a_users_own_worktree_on_a_disk_that_is_away_stays_known(checkout: Path, tmp_path: Path, folder: Path) -> None:
    own = tmp_path / "disk" / "mine"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", own], cwd=checkout, check=True)
    (tmp_path / "disk").rename(tmp_path / "away")
    worktree.create(checkout, folder.with_name("other"))
    worktree.remove(checkout, folder)
    (tmp_path / "away").rename(tmp_path / "disk")
    assert subprocess.run(["git", "status"], cwd=own, check=False, capture_output=True).returncode == 0
