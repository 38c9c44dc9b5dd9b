"""What was planned, allowed and spent, side by side: for `everest plan` and for reports."""

from __future__ import annotations

import contextlib
from typing import NotRequired, TypedDict

from pipeline.budget.ledger import ledger, named_ledger, read_executions, total
from pipeline.budget.limit import UNITS, BudgetRow, rows
from pipeline.params import Params
from pipeline.system.files import read_json, write_json

#: What `everest plan` last said of an experiment, beside its records.
PLAN = "plan.json"


class AccountRow(TypedDict):
    """One quantity of a run; None where there is no such figure. `partly`: why `spent` is a part, if it is."""

    what: str
    unit: str
    planned: float | None
    budget: float | None
    spent: float | None
    partly: NotRequired[str]


def planned(
    params: Params, hours: float | None, device_hours: float | None, watts: float | None, gpu: bool
) -> list[BudgetRow]:
    """What the trainings are predicted to take beside `compute.budget`.

    Args:
        hours: of all trainings; None where a count of videos is unknown.
        device_hours: of GPUs, or of processes of a CPU: each training's hours times its devices.
        watts: [W] of one device at most; None where unknown.
        gpu: whether the devices are GPUs: hours of a CPU are no GPU hours.
    """
    gpu_hours = device_hours if gpu else 0.0
    kwh = None if device_hours is None or watts is None else device_hours * watts / 1000
    return rows(params.compute, hours, gpu_hours, kwh)


def verdict(amounts: list[BudgetRow]) -> str:
    """Whether a plan fits its budget, in one sentence; empty where there is no budget."""
    bounded = [row for row in amounts if row["budget"] is not None]
    if not bounded:
        return ""
    over = [row for row in bounded if row["fits"] is False]
    unknown = [row["what"] for row in bounded if row["fits"] is None]
    if over:
        parts = [f"{row['amount']:.3g} {UNITS[row['what']]} where {row['budget']:g} are allowed" for row in over]
        sentence = f"does not fit the budget: {', '.join(parts)}. The run would stop there, saved"
    else:
        sentence = "fits the budget" if len(unknown) < len(bounded) else "cannot be held against the budget"
    return sentence + (f"; not known: {', '.join(unknown)}" if unknown else "") + "."


def keep_plan(params: Params, amounts: list[BudgetRow]) -> None:
    """Leave a plan for the report; a folder that nothing can be written to has no report either."""
    with contextlib.suppress(OSError):
        write_json(named_ledger(params) / PLAN, {row["what"]: row["amount"] for row in amounts})


def account(params: Params) -> list[AccountRow]:
    """Planned, allowed and spent of the run that this process belongs to; [] where nothing was counted."""
    folder = ledger(params)
    executions = read_executions(folder)
    if not executions:
        return []
    spent, plan = total(executions), read_json(folder / PLAN)
    table: list[AccountRow] = [
        {
            "what": row["what"],
            "unit": UNITS.get(row["what"], "g CO2"),
            "planned": plan.get(row["what"]),
            "budget": row["budget"],
            "spent": row["amount"],
            "partly": spent.partly if row["what"] in ("kwh", "g_co2") else "",
        }
        for row in rows(params.compute, spent.hours, spent.gpu_hours, spent.kwh)
    ]
    return [row for row in table if any(row[name] is not None for name in ("planned", "budget", "spent"))]
