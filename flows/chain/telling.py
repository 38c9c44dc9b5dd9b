"""What a person reads while the chain runs: a line at each stage's start and end, with its time and result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from flows.chain.health import seen_in
from flows.chain.lines import say
from flows.chain.repro import Outcome, StageStopped
from pipeline.errors import BudgetSpentError, EverestError
from pipeline.experiments.workspace import Workspace
from pipeline.system.progress import clock, stage_line
from pipeline.tracking.headline import words


def told(stage: str, where: Workspace, run: Callable[[Workspace], Outcome]) -> Outcome:
    """Run a stage between its two lines."""
    name = stage.rpartition(":")[2]
    began = time.monotonic()
    say(f"{name}: started")
    try:
        with stage_line(name) as environment:
            outcome = run(dataclasses.replace(where, environment={**where.environment, **environment}))
    except (StageStopped, BudgetSpentError):
        say(f"{name}: stopped after {clock(time.monotonic() - began)}, and saved")
        raise
    except EverestError:
        say(f"{name}: failed after {clock(time.monotonic() - began)}")
        raise
    step, _, benchmark = name.partition("@")
    result = words(step, benchmark or None, where.folder)
    seen = seen_in(where, step)
    if seen is not None:
        result = ", ".join(filter(None, [result, seen.line]))
        for alarm in seen.active:
            say(f"health: {alarm.sentence}")
    say(f"{name}: {outcome.value} in {clock(time.monotonic() - began)}" + (f", {result}" if result else ""))
    return outcome
