"""Git worktrees: a commit's files in a folder of their own, with the DVC cache of the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.errors import InputError
from pipeline.system import git
from pipeline.system.files import remove_folder

#: In DVC's settings, the header of a section and the key `dir`, in quotes or not.
_SECTION = re.compile(r"\s*\[(.*)\]")
_DIR = re.compile(r"\s*['\"]?dir['\"]?\s*=", re.IGNORECASE)

_EDITS_DO_NOT_TRAVEL = "uncommitted changes stay behind: the run uses the last commit"


def create(root: Path, folder: Path, commit: str = "HEAD") -> None:
    """Check out a commit of the repository at `root` into `folder`; one that is there whole stays as it is.

    What a start or a removal that was killed has left is made anew: a run that continues must not take it for whole.

    Raises:
        InputError: the clone has no such commit.
        EverestError: git refuses, for instance because nothing is committed yet.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        if is_whole(folder):
            return
        remove(root, folder)
    if commit != "HEAD":
        known = git.ask("cat-file", "-e", f"{commit}^{{commit}}", root=root)
        if known.text is None:
            raise InputError(
                f"commit {commit} is not in this clone ({known.reason}). Cure: `git fetch --all`, or fetch it from "
                "where the run was made."
            )
    # Twice "force": what git noted of a folder that is gone, or of a start that was killed, is taken over. `worktree
    # prune` would also forget those of a user whose disk, or whose side of a container, is not seen from here.
    git.do("worktree", "add", "--force", "--force", "--detach", str(folder), commit, root=root)


def is_whole(folder: Path) -> bool:
    """Whether a folder is a worktree that git knows and has checked out: its index appears when all files are there."""
    pointer = folder / ".git"
    noted = pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip() if pointer.is_file() else ""
    return bool(noted) and Path(folder, noted, "index").is_file()


def remove(root: Path, folder: Path) -> None:
    """Remove a worktree and what git noted of it; nothing where there is none."""
    with suppress(FileNotFoundError):
        remove_folder(folder)
    git.ask("worktree", "remove", "--force", "--force", str(folder), root=root, seconds=git.ACTION_SECONDS)


def left_behind(root: Path) -> str | None:
    """A sentence for the log when the checkout has edits that its worktrees will not have."""
    changed = git.do("status", "--porcelain", "--untracked-files=no", root=root)
    return _EDITS_DO_NOT_TRAVEL if changed.strip() else None


def share_cache(root: Path, folder: Path) -> None:
    """Let the worktree `folder` use the DVC cache, with its run cache, of the checkout at `root`."""
    existing = root / ".dvc" / "config.local"
    text = existing.read_text(encoding="utf-8") if existing.exists() else ""
    (folder / ".dvc" / "config.local").write_text(_with_cache(text, dvc_cache(root)), encoding="utf-8")


def _with_cache(text: str, cache: Path) -> str:
    """DVC's settings `text` with that cache: a relative one would be another there, and other keys of `[cache]` stay.

    DVC's own command does not do it: it cannot write a path with letters beyond ASCII, which it reads.
    """
    quote = "'" if '"' in str(cache) else '"'
    setting = f"    dir = {quote}{cache}{quote}\n"
    lines: list[str] = []
    inside = found = False
    for line in text.splitlines():
        if header := _SECTION.match(line):
            inside = header[1].strip(" '\"").lower() == "cache"
        if not inside or not _DIR.match(line):
            lines.append(f"{line}\n")
        if header and inside:
            found = True
            lines.append(setting)
    return "".join(lines if found else [*lines, "[cache]\n", setting])


def dvc_cache(root: Path) -> Path:
    """Where a checkout's DVC cache lies, by DVC's own word.

    Raises:
        InputError: `root` is no DVC project.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{root} is no DVC project: {done.stderr.strip()}. Cure: run in the project's root.")
    return Path(root, done.stdout.strip().splitlines()[-1])
