"""A flow run's own place: checked parameters, a worktree of the last commit, removed when the run has succeeded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger
from prefect.exceptions import Pause
from prefect.runtime import flow_run

from flows.chain.repro import workspace
from flows.chain.run import identity
from pipeline.errors import EverestError, InputError
from pipeline.experiments.workspace import Workspace, environment
from pipeline.layout import WORKTREES
from pipeline.notices.told import told
from pipeline.params import Params, load_params
from pipeline.params.load import params_from_text
from pipeline.params.write import write_overrides
from pipeline.system import git, worktree


@dataclass(frozen=True)
class Place:
    """Where a flow run works, with which parameters, and where its reports are kept."""

    params: Params
    where: Workspace

    def keep(self, output: str) -> Path:
        """Copy a folder of outputs/ to reports/<flow run>, which outlives the worktree."""
        kept = self.where.root / "reports" / self.where.name
        shutil.copytree(self.where.folder / "outputs" / output, kept, dirs_exist_ok=True)
        return kept


@contextmanager
def isolated(recipe: str | None, overrides: Mapping[str, object], stages: Sequence[str] = ()) -> Iterator[Place]:
    """A worktree of the last commit for this flow run, with that recipe and those overrides in its params.yaml.

    Two runs with different parameters never share a params.yaml. A run that fails leaves the worktree, to look at, and
    one that is stopped to go on with; one that is refused or cancelled does not.

    Args:
        stages: those that will run, such as "download"; all if none is named.

    Raises:
        InputError, EverestError: no such recipe, a key or value is wrong, or something else that can be known stands in
            the way; nothing was started.
    """
    with told(f"deployment run {flow_run.name or 'manual'}"):
        yield from _isolated(recipe, overrides, stages)


def _isolated(recipe: str | None, overrides: Mapping[str, object], stages: Sequence[str]) -> Iterator[Place]:
    root = Path.cwd()
    name = str(flow_run.id or "manual")
    folder = root / WORKTREES / name
    goes_on = worktree.is_whole(folder)  # of a run that was stopped: it holds that run's code and what is done
    if not goes_on:
        checked(root, recipe, overrides)
    logger = get_run_logger()
    if note := worktree.left_behind(root):
        logger.warning(note)
    try:
        where = create(root, name, recipe, overrides)
        params = load_params(where.folder / "params.yaml")  # what its stages read: the checkout may have moved on
        preflight(where, stages)
    except BaseException:  # a stop as well: nothing has begun
        if not goes_on:
            worktree.remove(root, folder)
        raise
    logger.info("%s runs in %s", params.recipe, where.folder)
    try:
        yield Place(params, where)
    except Pause as stopped:
        if stopped.state is not None and stopped.state.is_cancelled():
            worktree.remove(root, folder)
        raise
    worktree.remove(root, folder)


def create(root: Path, name: str, recipe: str | None, overrides: Mapping[str, object]) -> Workspace:
    """Check out HEAD into `.work/worktrees/<name>` with that recipe and those overrides in its params.yaml.

    Raises:
        EverestError: git refuses, for instance because nothing is committed yet.
    """
    folder = root / WORKTREES / name
    worktree.create(root, folder)
    if recipe:
        shutil.copyfile(folder / "recipes" / f"{recipe}.yaml", folder / "params.yaml")
    write_overrides(folder / "params.yaml", overrides)
    worktree.share_cache(root, folder)
    # Equal inputs have equal names there: what a run that failed has saved, the next one takes up.
    variables = environment(root, folder, root / ".work") | identity(name)
    return workspace(folder, name, variables, root)


def checked(root: Path, recipe: str | None, overrides: Mapping[str, object]) -> Params:
    """The parameters of a recipe of the last commit (its params.yaml if None) with overrides.

    Raises:
        InputError: no such recipe, it is not committed, or a key or value is wrong.
    """
    # By name only: a path would read, and copy into the worktree, a file from anywhere.
    names = sorted(path.stem for path in (root / "recipes").glob("*.yaml"))
    if recipe is not None and recipe not in names:
        raise InputError(f"recipe = {recipe[:100]!r} is not in recipes/. Cure: use one of: {', '.join(names)}.")
    file = "params.yaml" if recipe is None else f"recipes/{recipe}.yaml"
    committed = git.ask("show", f"HEAD:./{file}", root=root)
    if committed.text is None:
        raise InputError(
            f"{file} is not committed ({committed.reason}), and the run uses the last commit. "
            f"Cure: `git add {file}`, commit it, then start again."
        )
    return params_from_text(committed.text, Path(file), overrides)


def preflight(where: Workspace, stages: Sequence[str]) -> None:
    """Ask the worktree's own code, with its params.yaml and its environment, what stands in the way of these stages.

    Raises:
        InputError, EverestError: something does; nothing was started.
    """
    command = [sys.executable, "-m", "pipeline.preflight", *stages]
    done = subprocess.run(
        command, cwd=where.folder, env=dict(where.environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        kind = InputError if done.returncode == InputError.exit_code else EverestError
        raise kind(done.stderr.strip()[-4000:] or f"the check before the first stage ended with {done.returncode}")
    for line in done.stdout.splitlines():
        get_run_logger().warning(line)
