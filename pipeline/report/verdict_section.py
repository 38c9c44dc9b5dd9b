"""The part of a comparison's report that says who was stopped early, why, and what that saved."""

from __future__ import annotations

from pipeline.report.page import Columns, Section, Table, duration, number
from pipeline.verdict.record import Saved, Verdict
from pipeline.verdict.rule import Judgement


def verdict_section(verdict: Verdict) -> Section:
    """Judgements after each slice, and savings."""
    judged: Columns[Judgement] = {
        "after": lambda row: f"{row['look']} of {verdict['slices']}",
        "strategy": lambda row: row["strategy"],
        "best then": lambda row: row["rival"],
        "benchmark": lambda row: row["benchmark"],
        "probe %": lambda row: number(100 * row["score"]),
        "best probe %": lambda row: number(100 * row["best"]),
        "behind by": lambda row: f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
        "may catch up": lambda row: number(100 * row["reach"]),
        "can still win": lambda row: "no" if row["futile"] else "yes",
    }
    saved: Columns[Saved] = {
        "stopped": lambda row: row["strategy"],
        "after": lambda row: f"{100 * row['after']:.0f} % of its pre-training",
        "T mult-adds saved": lambda row: number(row["tmacs"], 3),
        "time saved": lambda row: duration(None if row["hours"] is None else 3600 * row["hours"]),
        "EUR saved": lambda row: number(row["eur"], 2),
    }
    note = (
        "The monitor's k-NN probe on each unfinished encoder: top-1, or, where videos have several classes, how high "
        "a clip's own rank among all (average precision of each clip). Clips of val, or training videos that the probe "
        "does not know. On drawn videos it was not predictive. Intervals (betting, Waudby-Smith and "
        f"Ramdas 2024) hold at {100 * verdict['confidence']:g} % over all looks, pairs and benchmarks together. They "
        "speak of the probe: that it ranks as the tested models do, and that gaps do not close faster later, is "
        "assumed. A strategy is stopped where this holds on every benchmark."
    )
    tables = [Table.of(verdict["judgements"], judged, "After each slice", text=(0, 1, 2, 3, 8))]
    if verdict["saved"]:
        tables.append(Table.of(verdict["saved"], saved, "Saved, all seeds together", text=(0, 1)))
    return Section("Early verdict", note, tables if verdict["judgements"] else [])
