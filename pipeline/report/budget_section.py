"""The token budget as a slider: what the same model reaches and costs when it keeps more or fewer tokens."""

from __future__ import annotations

from pipeline.evaluation.budgets import Budget, NoSweep, Sweep
from pipeline.report.page import Columns, Section, Slider, Step, Table, number
from pipeline.report.plots import Score, intervals

TITLE = "Token budget"


def budget_section(sweep: Sweep | NoSweep) -> Section:
    """Slider, table and plot of a sweep, or why there is none."""
    if isinstance(sweep, NoSweep):
        return Section(TITLE, f"The model was not tested at other budgets: {sweep.reason}.")
    rows = sweep.budgets
    columns: Columns[Budget] = {
        "tokens kept": lambda row: _name(row, sweep.own),
        "tokens / clip": lambda row: f"{row.tokens:,}",
        f"{sweep.called} %": lambda row: number(100 * row.top1),
        "95 % interval": lambda row: f"{100 * row.top1_ci_low:.1f} – {100 * row.top1_ci_high:.1f}",
        "G mult-adds / clip": lambda row: number(row.gmacs, 3),
        "clips / s": lambda row: number(row.clips_per_second, 1),
    }
    start = next(place for place, row in enumerate(rows) if row.keep_ratio == sweep.own)
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
    drawn = "" if len(sweep.videos) == sweep.of_videos else f", drawn with seed {sweep.seed}"
    note = (
        f"The finished model, not trained again, on {len(sweep.videos):,} of {sweep.of_videos:,} test videos{drawn} "
        "(their ids are in budgets.json). The rate is that of the forward passes alone, measured while the stage ran, "
        f"on {sweep.device}; the multiply-adds are computed."
    )
    section = Section(TITLE, f"{note} {put_back(sweep)}", [Table.of(rows, columns)])
    section.slider = Slider("Share of tokens kept", [_step(row, sweep) for row in rows], start)
    section.plots = [
        intervals(scores, title="Accuracy against cost", x="G multiply-adds of a clip", y=f"{sweep.called} (%)")
    ]
    return section


def put_back(sweep: Sweep) -> str:
    """What the dropped tokens would have changed, in a sentence."""
    if not sweep.errors:
        return "The tested model makes no error in this sample."
    return (
        f"Of the model's {sweep.errors:,} errors among {len(sweep.videos):,} videos {sweep.put_right:,} turn right "
        f"when the dropped tokens are put back; of its {sweep.hits:,} hits {sweep.lost:,} are lost."
    )


def _name(row: Budget, trained: float) -> str:
    return f"{100 * row.keep_ratio:g} %" + " (as trained)" * (row.keep_ratio == trained)


def _step(row: Budget, sweep: Sweep) -> Step:
    facts = [
        (f"% {sweep.called}", number(100 * row.top1)),
        (f"to {100 * row.top1_ci_high:.1f}, 95 % interval", number(100 * row.top1_ci_low)),
        ("tokens", f"{row.tokens:,}"),
        ("G multiply-adds", number(row.gmacs, 3)),
        ("clips / s", number(row.clips_per_second, 1)),
    ]
    return Step(_name(row, sweep.own), facts)
