"""What Prefect's server runs and keeps waiting, asked over HTTP: importing Prefect takes seconds."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from pipeline import layout
from pipeline.preflight.orchestrator import GOING, address, request
from pipeline.status.records import FlowRun, Orchestrator
from pipeline.system.redact import redact

#: [s] that the server has, for all questions together.
ANSWER_SECONDS = 3.0


class _Run(TypedDict, total=False):
    """A flow or task run as the server describes it."""

    id: str
    name: str
    state_name: str
    start_time: str | None
    expected_start_time: str | None
    deployment_id: str | None
    flow_run_id: str


class _Named(TypedDict, total=False):
    """A deployment, or a concurrency limit."""

    id: str
    name: str
    limit: int
    active_slots: int


def ask_prefect(roots: Sequence[Path]) -> Orchestrator | None:
    """What the server at PREFECT_API_URL runs; None where no address is set.

    Args:
        roots: checkouts, in which a run's worktree is looked for.
    """
    where = address()
    if where is None:
        return None
    shown = redact(where.value)
    answers: list[list[FlowRun]] = []
    faults: list[str] = []

    def ask() -> None:
        try:
            answers.append(_flow_runs(where.value, roots))
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
            faults.append(redact(str(getattr(error, "reason", "") or error)) or type(error).__name__)

    # In a thread: a name server may take its time, and a server that drips answers longer than any of them.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if answers:
        return Orchestrator(shown, "", answers[0])
    why = faults[0] if faults else f"nothing within {ANSWER_SECONDS:g} s"
    fault = f"no answer from Prefect at {shown} ({why}): what is shown comes from this machine's disk alone"
    return Orchestrator(shown, fault, [])


def _flow_runs(api: str, roots: Sequence[Path]) -> list[FlowRun]:
    # The earliest first: of a long queue those that run, not those that are scheduled for tomorrow.
    asked = {"flow_runs": {"state": {"type": {"any_": GOING}}}, "sort": "START_TIME_ASC", "limit": 50}
    runs: list[_Run] = _post(api, "flow_runs/filter", asked)  # type: ignore[assignment]
    if not runs:
        return []
    tasks: list[_Run] = _post(
        api,
        "task_runs/filter",
        {"flow_runs": {"id": {"any_": [run["id"] for run in runs]}}, "task_runs": {"state": {"type": {"any_": GOING}}}},
    )  # type: ignore[assignment]
    deployed = [identity for run in runs if (identity := run.get("deployment_id"))]
    chosen = {"deployments": {"id": {"any_": deployed}}}
    deployments: list[_Named] = _post(api, "deployments/filter", chosen) if deployed else []  # type: ignore[assignment]
    limits: list[_Named] = _post(api, "v2/concurrency_limits/filter", {})  # type: ignore[assignment]
    full = any(limit["name"] == layout.LIMIT and limit["active_slots"] >= limit["limit"] for limit in limits)
    names = {deployment["id"]: deployment["name"] for deployment in deployments}
    return [_flow_run(run, tasks, names, full, roots) for run in sorted(runs, key=_since)]


def _flow_run(run: _Run, tasks: Sequence[_Run], names: Mapping[str, str], full: bool, roots: Sequence[Path]) -> FlowRun:
    folders = [root / layout.WORKTREES / run["id"] for root in roots]
    state = run.get("state_name") or "?"
    states = {task.get("state_name") for task in tasks if task.get("flow_run_id") == run["id"]}
    waits = ""
    if state in ("Late", "Scheduled", "Pending"):
        waits = "a worker that takes it" if state == "Late" else "its time" if state == "Scheduled" else "its start"
    elif state == "AwaitingConcurrencySlot":
        waits = "a slot of a concurrency limit"
    elif full and "Pending" in states and "Running" not in states:  # else its own training may be who holds it
        waits = f"the slot of the limit {layout.LIMIT!r}, which another training holds"
    return FlowRun(
        name=run.get("name") or run["id"],
        deployment=names.get(run.get("deployment_id") or "", ""),
        state=state,
        since=_since(run) or None,
        tasks=[
            f"{task.get('name')} {(task.get('state_name') or '?').lower()}"
            for task in tasks
            if task.get("flow_run_id") == run["id"]
        ],
        place=next((str(folder) for folder in folders if folder.is_dir()), None),
        waits_for=waits,
    )


def _since(run: _Run) -> float:
    text = run.get("start_time") or run.get("expected_start_time")
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def _post(api: str, path: str, body: Mapping[str, object]) -> list[object]:
    with urllib.request.urlopen(request(api, path, body), timeout=ANSWER_SECONDS) as response:
        content: object = json.loads(response.read())
    if not isinstance(content, list):
        raise ValueError("an answer that is not Prefect's")
    return content
