"""A git worktree for each flow run: two runs with different parameters never share a params.yaml.

The worktree holds the committed code; the DVC cache (with its run cache), the raw videos and the MLflow store are the
checkout's own, so that nothing is computed or downloaded twice.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.params import load_params
from pipeline.system import git

_EDITS_DO_NOT_TRAVEL = "uncommitted changes stay behind: the run uses the last commit"


def create(root: Path, run_name: str, recipe: str | None, overrides: dict[str, Any]) -> Path:
    """Check out HEAD into `.work/worktrees/<run_name>` with that recipe and those overrides in its params.yaml.

    Raises:
        EverestError: git refuses, for instance because nothing is committed yet.
    """
    folder = root / ".work" / "worktrees" / run_name
    folder.parent.mkdir(parents=True, exist_ok=True)
    git.do("worktree", "prune", root=root)
    if not folder.exists():
        git.do("worktree", "add", "--detach", str(folder), "HEAD", root=root)
    if recipe:
        shutil.copyfile(folder / "recipes" / f"{recipe}.yaml", folder / "params.yaml")
    write_overrides(folder / "params.yaml", overrides)
    _share_cache(root, folder)
    return folder


def write_overrides(path: Path, overrides: dict[str, Any]) -> None:
    """Set dotted keys in a params file, keeping its comments; checked before the file is touched."""
    load_params(path, overrides)
    if not overrides:
        return
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(path)) as data:
        for dotted, value in overrides.items():
            *parents, last = dotted.split(".")
            node = data
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = value


def environment(root: Path) -> dict[str, str]:
    """What a worktree's stages must know of the checkout that they belong to."""
    return {
        "EVEREST_DATA": os.environ.get("EVEREST_DATA", str(root / "data")),
        "EVEREST_RUNS": os.environ.get("EVEREST_RUNS", str(root / ".work" / "runs")),
        "EVEREST_CELLS": os.environ.get("EVEREST_CELLS", str(root / ".work" / "compare")),
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}"),
    }


def left_behind(root: Path) -> str | None:
    """A sentence for the log when the checkout has edits that the worktree will not have."""
    changed = git.do("status", "--porcelain", "--untracked-files=no", root=root)
    return _EDITS_DO_NOT_TRAVEL if changed.strip() else None


def remove(root: Path, folder: Path) -> None:
    git.do("worktree", "remove", "--force", str(folder), root=root)


def _share_cache(root: Path, folder: Path) -> None:
    # No answer is an answer here: the setting is absent.
    shown = git.ask("config", "--file", ".dvc/config.local", "--get", "cache.dir", root=root)
    cache = Path((shown.text or "").strip() or root / ".dvc" / "cache")
    local = folder / ".dvc" / "config.local"
    existing = root / ".dvc" / "config.local"
    text = existing.read_text() if existing.exists() else ""
    if "[cache]" not in text:
        text += f"[cache]\n    dir = {json.dumps(str(cache))}\n"
    local.write_text(text)
