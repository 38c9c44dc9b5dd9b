"""What a stage's process knows of whom it works for, and of the code that it runs."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.system import git as asked
from pipeline.tracking.context import code_tags, dirty_diff, dirty_files, registered_name


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
    difference = dirty_diff().text
    assert difference is not None
    assert "a/code.py" in difference
    assert "dvc.lock" not in difference


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean checkout with one commit, which is the current folder."""
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_a_clean_checkout_is_clean_and_a_new_file_of_code_is_named_as_git_names_it(repository: Path) -> None:
    assert code_tags()["git.dirty"] == "false"
    assert "git.unknown" not in code_tags()
    (repository / "mödel.py").touch()
    assert code_tags()["git.dirty"] == "true"
    assert dirty_files() == (["?? mödel.py"], "")


def _no_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository / "nothing"))


def _no_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / ".git").rename(repository / "elsewhere")


def _hanging(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(repository, monkeypatch, "sleep 20")
    monkeypatch.setattr(asked.ask, "__kwdefaults__", {"root": None, "seconds": 0.1})


def _another_users(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(repository, monkeypatch, "echo \"fatal: detected dubious ownership in repository at '/x'\" >&2; exit 128")


def _only_status_fails(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    broken = 'case "$*" in *status*) echo "fatal: index file corrupt" >&2; exit 128;; esac'
    _stand_in(repository, monkeypatch, f'{broken}; exec {real} "$@"')


def _stand_in(repository: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder = repository / "bin"
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(("fault", "reason"), [
    (_no_git, "git is not installed"), (_no_repository, "not a git repository"),
    (_hanging, "did not answer within 0.1 s"), (_another_users, "dubious ownership"),
    (_only_status_fails, "index file corrupt"),
])  # fmt: skip
def test_what_git_cannot_be_asked_is_unknown_and_never_clean(
    fault: Callable[[Path, pytest.MonkeyPatch], None], reason: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(repository, monkeypatch)
    tags = code_tags()
    assert tags["git.dirty"] == "unknown"
    assert reason in tags["git.unknown"]
    assert (tags["git.commit"] == "unknown") == (fault is not _only_status_fails)
