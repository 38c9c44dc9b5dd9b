"""Putting back what a tracked run started from: code into a git worktree, data and weights from DVC's cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline import layout
from pipeline.errors import InputError
from pipeline.system import git, worktree
from pipeline.system.files import link, sha256_of

#: Where a file outside these folders cannot change what a stage computes.
CODE = ("models/", "pipeline/")


@contextmanager
def code_of(commit: str, folder: Path, keep: bool = False) -> Iterator[Path]:
    """A checkout of `commit` in `folder`, removed at the end whatever happened; the user's own is not touched.

    Raises:
        InputError: this clone has no such commit.
    """
    root = Path.cwd()
    worktree.remove(root, folder)  # of an earlier call that was killed
    try:
        worktree.create(root, folder, commit)
        yield folder
    finally:
        if not keep:
            worktree.remove(root, folder)


def apply_patch(patch: Path, folder: Path) -> None:
    """Put uncommitted changes onto a worktree; params.yaml is left alone.

    Raises:
        InputError: the patch does not fit, for example because a secret in it was hidden.
    """
    done = git.ask("apply", "--whitespace=nowarn", "--exclude=params.yaml", str(patch.absolute()), root=folder)
    if done.text is None:
        raise InputError(
            f"the run's uncommitted changes cannot be applied to its commit: {done.reason}. "
            "Cure: reproduce a run of committed code."
        )


def unknown_code(status: str) -> list[str]:
    """Files of code that git did not know, from the text of `git status --porcelain`: nobody kept them."""
    names = [line[3:].strip('"') for line in status.splitlines() if line.startswith("?? ")]
    return [name for name in names if name.startswith(CODE)]


def tracked_changes(status: str) -> list[str]:
    """Changed files that git knows, from the text of `git status --porcelain`."""
    return [line[3:].strip('"') for line in status.splitlines() if line and not line.startswith("?? ")]


def restore(path: str, digest: str, folder: Path) -> None:
    """Put the version of a DVC output with this hash to its path below `folder`, from the DVC cache.

    Raises:
        InputError: the cache lacks it.
    """
    objects = worktree.dvc_cache(Path.cwd()) / "files" / "md5"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if digest.endswith(".dir"):
        for entry in json.loads(_object(objects, digest, path).read_text(encoding="utf-8")):
            inner = target / entry["relpath"]
            inner.parent.mkdir(parents=True, exist_ok=True)
            link(_object(objects, entry["md5"], path), inner)
    else:
        link(_object(objects, digest, path), target)


def check_files(expected: Mapping[str, str], folder: Path, root: Path) -> None:
    """Hold the files that a run read against their recorded SHA-256.

    What DVC does not keep (converted weights, the trainings of a comparison) is taken from where it lies here, if it is
    still the same.

    Raises:
        InputError: a file is nowhere, or not what the run read.
    """
    for name, digest in expected.items():
        if _is(folder / name, digest):
            continue
        places = [root, *sorted(path for path in (root / layout.WORK).glob("*/*") if path.is_dir())]
        source = next((place / name for place in places if _is(place / name, digest)), None)
        if source is None:
            raise InputError(
                f"{name} with SHA-256 {digest[:12]}... is neither in DVC's cache nor here: it was replaced since the "
                "run, or made outside of `dvc repro`. Cure: `dvc pull` if it was pushed, else make it again."
            )
        shutil.copytree(source.parent, (folder / name).parent, dirs_exist_ok=True, copy_function=link)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _object(objects: Path, digest: str, path: str) -> Path:
    place = objects / digest[:2] / digest[2:]
    if not place.exists():
        raise InputError(
            f"{path} with hash {digest} is not in DVC's cache {objects}. Cure: `dvc pull` brings the present "
            "version, `dvc fetch --all-commits` older ones, if they were pushed."
        )
    return place
