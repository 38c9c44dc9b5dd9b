"""The data stages on another worker: a run of a data deployment that this run submits, and whose results it takes.

The results come through DVC's cache, where both checkouts have the same one: this side leaves a mark in it, and the
other looks for that. Else they go to DVC's default remote and come from there. An order to cancel is passed on; a run
that goes on after its worker was stopped finds the one that it had submitted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling

from flows.chain.gate import Wait, tell
from flows.chain.guard import Children
from flows.chain.orders import PROCESS_RUN, run_of, set_state, state_of
from flows.chain.repro import StageFailed, StageStopped
from flows.chain.stages import Origin, Stage
from flows.names import LONGEST
from pipeline.errors import EverestError, InputError
from pipeline.experiments.workspace import Workspace
from pipeline.system.redact import redact
from pipeline.system.worktree import dvc_cache

#: States of a run that cannot have touched its mark yet.
_NOT_BEGUN = (StateType.SCHEDULED, StateType.PENDING)


class Here:
    """The data are made by the run itself."""

    #: Stages that are checked before the first begins; all where none is named.
    checked: tuple[str, ...] = ()
    origin = Origin.HERE

    def make(self, children: Children) -> None:
        """Nothing, ahead of the stages."""


class Elsewhere(Here):
    """A deployment of the flow `data` that makes a run's data.

    Args:
        deployment: such as `data/cpu`.
        recipe: of the run, with its overrides: the data's too.
        root: this run's checkout.

    Raises:
        InputError: no such deployment; nothing was started.
    """

    checked = ("pretrain", "finetune", "evaluate", "report")

    def __init__(self, deployment: str, recipe: str | None, overrides: Mapping[str, object], root: Path) -> None:
        self.name, self._parameters = deployment, {"recipe": recipe, "overrides": dict(overrides)}
        self._deployment, self._root = _deployed(deployment), root
        self.origin = Origin.REMOTE if has_remote(root) else Origin.SHARED_CACHE

    def make(self, children: Children) -> None:
        """Have the data made, and wait for it.

        Raises:
            StageStopped: this run was told to stop; the other is cancelled where this one is.
            StageFailed: the other run did not complete; says how it ended.
        """
        # A run that is resumed finds what it has submitted; one that is tried again, since that failed, does not.
        submitted = self._submit("")
        if submitted.state is not None and submitted.state.is_final() and not submitted.state.is_completed():
            submitted = self._submit(f" at attempt {flow_run.run_count}")
        pool = self._deployment.work_pool_name
        tell(f"data: made by {self.name}, run {submitted.name} ({submitted.id}) in work pool {pool}")
        wait = Wait("data", children)
        run: FlowRun | None = submitted
        while run is None or run.state is None or not run.state.is_final():
            try:
                wait(partial(_words, run, self.name, pool))
            except StageStopped:
                _pass_on(submitted)
                raise
            run = run_of(submitted.id)
        if not run.state.is_completed():
            raise StageFailed(
                f"the data's run {run.name} ({run.id}) by {self.name} ended as {run.state.name}: "
                f"{run.state.message or 'without a word'}\nCure: `prefect flow-run logs {run.id}`, then submit again."
            )
        mark = _mark(self._root, str(flow_run.id))
        if self.origin is Origin.SHARED_CACHE and mark.exists():
            raise StageFailed(
                f"the data's run {run.name} ({run.id}) has completed, but its results are on a remote of its own, and "
                f"{self._root} has none. Cure: `dvc remote add --local --default NAME URL` here too, then submit again."
            )
        mark.unlink(missing_ok=True)
        tell(f"data: ready, by run {run.name}")

    def _submit(self, again: str) -> FlowRun:
        mark = _mark(self._root, str(flow_run.id))
        mark.parent.mkdir(parents=True, exist_ok=True)
        there = mark.exists()
        mark.touch()
        key = f"data of {flow_run.id}{again}"
        parameters = {**self._parameters, "for_run": str(flow_run.id)}
        name = f"data of {flow_run.name}"[:LONGEST]
        submitted = run_deployment(self.name, parameters=parameters, timeout=0, idempotency_key=key, flow_run_name=name)
        made = cast(FlowRun, submitted)
        if not there and made.state is not None and made.state.type not in _NOT_BEGUN:
            mark.unlink(missing_ok=True)  # the other side has taken it away: this run is resumed
        return made


def data_source(name: str | None, recipe: str | None, overrides: Mapping[str, object], root: Path) -> Here:
    """Who makes a run's data: the run itself, or the deployment of that name; raises as :class:`Elsewhere` does."""
    return Elsewhere(name, recipe, overrides, root) if name else Here()


@contextmanager
def made_for(run: str | None, root: Path) -> Iterator[Callable[[Workspace, Sequence[Stage]], None]]:
    """Make data in this checkout for a run that may be in another one; yields what hands the results over.

    Raises:
        InputError: nothing would bring them there; nothing was made.
        EverestError: DVC's default remote refuses them; they are kept here.
    """
    mark = _mark(root, run) if run else None
    shared = mark is not None and mark.exists()
    if mark and not shared and not has_remote(root):
        raise InputError(
            f"what is made in {root} does not come to run {run}, which waits for it: DVC has no default remote "
            "here, and its cache is not that of the other checkout. Cure: `dvc remote add --local --default NAME URL` "
            "in both, or `dvc cache dir FOLDER` with one folder for both; then submit again."
        )
    yield _push if mark and not shared else lambda where, stages: None
    if mark:
        mark.unlink(missing_ok=True)


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote in this checkout."""
    command = [sys.executable, "-m", "dvc", "config", "core.remote"]
    return bool(subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip())


def _mark(root: Path, run: str) -> Path:
    return dvc_cache(root) / "everest" / f"data-for-{UUID(run)}"


def _push(where: Workspace, stages: Sequence[Stage]) -> None:
    names = [stage.name for stage in stages]
    push = ("dvc", "--wait-for-lock", "push", "--run-cache")
    for command in (push, ("pipeline.operations.dvc_metrics",)):
        words = [sys.executable, "-m", *command, *names]
        done = subprocess.run(
            words, cwd=where.folder, env=dict(where.environment), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EverestError(
                f"`{' '.join(command)}` of the data ended with {done.returncode}: {redact(done.stderr[-500:])}\n"
                "Cure: mend the default remote (`dvc remote list`), then submit again: what is made is kept."
            )
    get_run_logger().info("The data is on DVC's default remote.")


def _deployed(name: str) -> DeploymentResponse:
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(name)
    except (ObjectNotFound, ValueError):
        raise InputError(
            f"data_on = {name!r} is no deployment of this Prefect server. "
            "Cure: data/cpu, after `everest ops init`; `prefect deployment ls` lists them."
        ) from None
    if not name.startswith("data/"):
        raise InputError(f"data_on = {name!r} does not make data. Cure: a deployment of the flow `data`: data/cpu.")
    return found


def _words(run: FlowRun | None, deployment: str, pool: str | None) -> str:
    if run is None or run.state is None:
        return "Prefect's server"
    text = f"{deployment}, run {run.name} ({run.id}): {run.state.name}"
    if run.state.type is StateType.SCHEDULED:
        text += f"; where no worker takes it: everest ops worker --pool {pool}"
    return text


def _pass_on(run: FlowRun) -> None:
    """Cancel the run where this one is being cancelled; one that is only stopped goes on with it later."""
    ours = state_of(UUID(os.environ.get(PROCESS_RUN) or str(flow_run.id)))
    if ours is not None and ours.type in (StateType.CANCELLING, StateType.CANCELLED):
        set_state(run.id, Cancelling(message=f"with run {flow_run.name}"))
