"""A flow run's own place: checked parameters, a worktree of the last commit, removed when the run has succeeded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.runtime import flow_run

from flows import worktree
from flows.repro import Workspace, workspace
from flows.run import identity
from pipeline.errors import InputError
from pipeline.params import Params, load_params


@dataclass(frozen=True)
class Place:
    """Where a flow run works: its parameters, its workspace, and where its reports are kept."""

    name: str
    params: Params
    where: Workspace
    root: Path

    def keep(self, output: str) -> Path:
        """Copy a folder of outputs/ to reports/<flow run>, which outlives the worktree."""
        kept = self.root / "reports" / self.name
        shutil.copytree(self.where.folder / "outputs" / output, kept, dirs_exist_ok=True)
        return kept


@contextmanager
def isolated(recipe: str | None, overrides: dict[str, Any]) -> Iterator[Place]:
    """A worktree for this flow run with that recipe and those overrides in its params.yaml.

    A run that fails leaves it, to look at.

    Raises:
        InputError: no such recipe, or a key or value is wrong; nothing was made.
    """
    root = Path.cwd()
    params = checked(root, recipe, overrides)
    logger = get_run_logger()
    if note := worktree.left_behind(root):
        logger.warning(note)
    name = str(flow_run.id or "manual")
    folder = worktree.create(root, name, recipe, overrides)
    where = workspace(folder, name, worktree.environment(root) | identity(name), on_terminal=False, root=root)
    logger.info("%s runs in %s", params.recipe, folder)
    yield Place(name, params, where, root)
    worktree.remove(root, folder)


def checked(root: Path, recipe: str | None, overrides: dict[str, Any]) -> Params:
    """The parameters of a recipe (the committed params.yaml if None) with overrides.

    Raises:
        InputError: no such recipe, or a key or value is wrong.
    """
    source = root / "recipes" / f"{recipe}.yaml" if recipe else root / "params.yaml"
    if recipe and not source.exists():
        names = ", ".join(sorted(path.stem for path in (root / "recipes").glob("*.yaml")))
        raise InputError(f"recipe = {recipe!r} is not in recipes/. Cure: use one of: {names}.")
    return load_params(source, overrides)
