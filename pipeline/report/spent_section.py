"""The part of a report that says what the run took, beside what was planned and allowed."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.budget.account import AccountRow
from pipeline.report.page import Columns, Section, Table, number

#: Names of quantities for people.
WORDS = {"hours": "wall time", "gpu_hours": "GPU time", "kwh": "energy", "eur": "price", "g_co2": "carbon dioxide"}


def spent_section(rows: Sequence[AccountRow]) -> Section:
    """Spent against planned; empty where nothing was counted."""
    columns: Columns[AccountRow] = {
        "what": lambda row: WORDS[row["what"]],
        "planned": lambda row: _with_unit(row, row["planned"]),
        "budget": lambda row: _with_unit(row, row["budget"]),
        "spent": _spent,
        "of the budget": lambda row: number(_share(row), 0, percent=True),
    }
    note = (
        "All stages that ran for this result, stopped and repeated ones too; two at once count once in wall time. "
        "Planned: the trainings alone, as `everest plan` last said; a dash where it was not asked."
    )
    return Section("Spent", note, [Table.of(rows, columns)] if rows else [])


def _spent(row: AccountRow) -> str:
    spent, partly = _with_unit(row, row["spent"]), row.get("partly")
    return f"at least {spent} ({partly})" if partly else spent


def _with_unit(row: AccountRow, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{number(value, 3 if value < 1 else 2 if value < 1000 else 0)} {row['unit']}"


def _share(row: AccountRow) -> float | None:
    return None if row["budget"] is None or row["spent"] is None else row["spent"] / row["budget"]
