"""The token budget as a slider: what the same model reaches and costs when it keeps more or fewer tokens."""

from __future__ import annotations

from pipeline.evaluation.budgets import Budget, NoSweep, Sweep
from pipeline.report.page import Columns, Section, Slider, Step, Table, number
from pipeline.report.plots import Score, intervals

TITLE = "Token budget"


def budget_section(found: Sweep | NoSweep) -> Section:
    """Slider, table and plot of a sweep, or why there is none."""
    if isinstance(found, NoSweep):
        return Section(TITLE, f"The model was not tested at other budgets: {found.reason}.")
    rows = found.budgets
    columns: Columns[Budget] = {
        "tokens kept": lambda row: _name(row, found.own),
        "tokens / clip": lambda row: f"{row.tokens:,}",
        f"{found.called} %": lambda row: number(100 * row.top1),
        "95 % interval": lambda row: f"{100 * row.top1_ci_low:.1f} – {100 * row.top1_ci_high:.1f}",
        "G mult-adds / clip": lambda row: number(row.gmacs, 3),
        "clips / s": lambda row: number(row.clips_per_second, 1),
    }
    start = next(place for place, row in enumerate(rows) if row.keep_ratio == found.own)
    scores: list[Score] = [
        {
            "name": f"{100 * row.keep_ratio:g} %",
            "x": row.gmacs,
            "y": 100 * row.top1,
            "low": 100 * row.top1_ci_low,
            "high": 100 * row.top1_ci_high,
        }
        for row in rows
    ]
    drawn = "" if len(found.videos) == found.of_videos else f", drawn with seed {found.seed}"
    note = (
        f"The finished model, not trained again, on {len(found.videos):,} of {found.of_videos:,} test videos{drawn} "
        "(their ids are in budgets.json). The rate is that of the forward passes alone, measured while the stage ran, "
        f"on {found.device}; the multiply-adds are computed."
    )
    section = Section(TITLE, f"{note} {put_back(found)}", [Table.of(rows, columns)])
    section.slider = Slider("Share of tokens kept", [_step(row, found) for row in rows], start)
    section.plots = [
        intervals(scores, title="Accuracy against cost", x="G multiply-adds of a clip", y=f"{found.called} (%)")
    ]
    return section


def put_back(found: Sweep) -> str:
    """What the dropped tokens would have changed, in a sentence."""
    if not found.errors:
        return "The tested model makes no error in this sample."
    return (
        f"Of the model's {found.errors:,} errors among {len(found.videos):,} videos {found.put_right:,} turn right "
        f"when the dropped tokens are put back; of its {found.hits:,} hits {found.lost:,} are lost."
    )


def _name(row: Budget, own: float) -> str:
    return f"{100 * row.keep_ratio:g} %" + " (as trained)" * (row.keep_ratio == own)


def _step(row: Budget, found: Sweep) -> Step:
    facts = [
        (f"% {found.called}", number(100 * row.top1)),
        (f"to {100 * row.top1_ci_high:.1f}, 95 % interval", number(100 * row.top1_ci_low)),
        ("tokens", f"{row.tokens:,}"),
        ("G multiply-adds", number(row.gmacs, 3)),
        ("clips / s", number(row.clips_per_second, 1)),
    ]
    return Step(_name(row, found.own), facts)
