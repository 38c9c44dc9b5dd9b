"""A budget against what was spent, in numbers and in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from pipeline.budget.ledger import Spent
from pipeline.params import ComputeParams

#: The beginning of the sentence; flows find it in a stage's log by that.
SENTENCE = "budget spent:"
#: Key of compute.budget -> its unit in words.
UNITS = {"hours": "h", "gpu_hours": "GPU h", "kwh": "kWh", "eur": "EUR"}


class BudgetRow(TypedDict):
    """One quantity of a run; None: not bounded, or not known. `g_co2` has no budget of its own."""

    what: str
    budget: float | None
    amount: float | None
    fits: bool | None


def rows(compute: ComputeParams, hours: float | None, gpu_hours: float | None, kwh: float | None) -> list[BudgetRow]:
    """Amounts (planned, or spent) beside the budget, priced and weighed where `compute` says how."""
    price, carbon = compute.eur_per_gpu_hour, compute.g_co2_per_kwh
    amounts = {
        "hours": hours,
        "gpu_hours": gpu_hours,
        "kwh": kwh,
        "eur": None if price is None or gpu_hours is None else price * gpu_hours,
    }
    table: list[BudgetRow] = []
    for name, amount in amounts.items():
        budget = getattr(compute.budget, name) if compute.budget else None
        fits = None if budget is None or amount is None else amount <= budget
        table.append({"what": name, "budget": budget, "amount": amount, "fits": fits})
    if carbon is not None:
        grams = None if kwh is None else carbon * kwh
        table.append({"what": "g_co2", "budget": None, "amount": grams, "fits": None})
    return table


def share_of(compute: ComputeParams, spent: Spent) -> str:
    """What is spent of each limit, in words; empty without a budget."""
    parts = []
    for row in rows(compute, spent.hours, spent.gpu_hours, spent.kwh):
        if row["budget"] is not None:
            amount = "unknown" if row["amount"] is None else f"{row['amount']:.3g}"
            of = f"{row['budget']:g} {UNITS[row['what']]}"
            partly = spent.partly if row["what"] == "kwh" else ""
            parts.append(f"at least {amount} of {of} ({partly})" if partly else f"{amount} of {of}")
    return ", ".join(parts)


def reached(compute: ComputeParams, spent: Spent) -> str:
    """Which limits have been reached, in words; empty where none has."""
    return " and ".join(_reached(compute, spent))


def _reached(compute: ComputeParams, spent: Spent) -> Iterator[str]:
    for row in rows(compute, spent.hours, spent.gpu_hours, spent.kwh):
        budget, amount = row["budget"], row["amount"]
        if budget is not None and amount is not None and amount >= budget:
            unit = UNITS[row["what"]]
            yield f"compute.budget.{row['what']} = {budget:g} {unit}, and this run has taken {amount:.3g} {unit}"


def uncounted(compute: ComputeParams, gpus: int, counts_energy: bool) -> str:
    """Limits that nothing here can count, in words; empty where all are."""
    budget = compute.budget
    if budget is None:
        return ""
    missing = []
    if gpus == 0:
        missing += [name for name in ("gpu_hours", "eur") if getattr(budget, name) is not None]
    if not counts_energy and budget.kwh is not None:
        missing.append("kwh")
    reasons = "no GPU is used" if gpus == 0 and missing != ["kwh"] else "no counter of energy can be read"
    keys = ", ".join(f"compute.budget.{name}" for name in missing)
    return f"{keys} cannot be counted here ({reasons}), and stops nothing. Cure: set hours too." if missing else ""
