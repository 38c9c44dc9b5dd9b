"""Running the chain under Prefect: one task a stage, independent stages side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain.gate import training_turn
from flows.chain.guard import Children, guard
from flows.chain.health import publish_health, seen_in
from flows.chain.orders import orders, until_answered
from flows.chain.repro import Outcome, repro
from flows.chain.stages import Origin, Stage
from flows.chain.telling import told
from pipeline.distributed.devices import listed
from pipeline.experiments.workspace import Workspace
from pipeline.layout import RUN_VARIABLE
from pipeline.params import Params

#: Stages that decode videos use all cores by themselves; more than two at once only take memory.
PARALLEL_STAGES = 2


@task(name="stage", task_run_name="{stage.name}", cache_policy=NO_CACHE)
def run_stage(stage: Stage, where: Workspace, children: Children) -> State[Any]:
    """Bring one DVC stage up to date; completes as "Cached" when there was nothing to compute."""
    with training_turn(stage.name, where, children) if stage.trains else nullcontext():
        outcome = told(
            stage.name, where, lambda place: repro(stage.name, place, children, pull=stage.origin is Origin.REMOTE)
        )
    seen = seen_in(where, stage.name)
    if seen is not None:
        publish_health(seen)
    if outcome is Outcome.RAN and stage.origin is not Origin.HERE:
        get_run_logger().warning(
            "%s was made elsewhere, for another commit or other parameters, it seems: computed again here.", stage.name
        )
    if outcome is Outcome.RAN:
        return Completed(message=f"{stage.name} ran", data=outcome.value)
    return Completed(name="Cached", message=f"{stage.name} was {outcome.value}", data=outcome.value)


def run_stages(
    stages: Sequence[Stage],
    params: Params,
    where: Workspace,
    before: Callable[[Children], None] = lambda children: None,
) -> dict[str, str]:
    """Run stages, independent ones side by side; the first failure stops what has not begun.

    Args:
        before: what is done first, within reach of the same orders and signals.

    Returns:
        stage name -> ran, restored or unchanged.
    """
    # Only a fetch meets a flaky world: nothing else is tried twice.
    fetch = run_stage.with_options(retries=2, retry_delay_seconds=10)
    futures: dict[str, Any] = {}
    with guard() as children, orders(children):
        try:
            before(children)
            for stage in stages:
                if not _gated(params):
                    stage = replace(stage, trains=False)
                submit = fetch if stage.fetches and _is_remote(params, stage) else run_stage
                options: dict[str, Any] = {"wait_for": [futures[name] for name in stage.after]}
                futures[stage.name] = submit.submit(stage, where, children, **options)
            return {name: future.result() for name, future in futures.items()}
        finally:
            until_answered(children)


def task_runner() -> Any:
    """Threads are enough: each stage is a process of its own."""
    return ThreadPoolTaskRunner(max_workers=PARALLEL_STAGES)


def identity(name: str) -> dict[str, str]:
    """What ties the MLflow runs of one flow run together."""
    return {RUN_VARIABLE: name}


def _gated(params: Params) -> bool:
    """Whether one training at a time is the rule: SLURM has a queue of its own, GPUs have locks of their own."""
    return params.compute.launcher == "local" and (params.compute.device == "cpu" or not listed())


def _is_remote(params: Params, stage: Stage) -> bool:
    return params.benchmarks[stage.name.split("@")[1]].data.source.kind == "official"
