"""What the end of a job prints: results with their cost, what a comparison says, the commands that lead further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.system.terminal import echo, show
from pipeline.system.text import printable

if TYPE_CHECKING:
    from pipeline.experiments.compare import Outcome
    from pipeline.report.collect import Summary
    from pipeline.report.comparison import Summary as Compared

_NEXT = """\
Report                 outputs/report/report.html
Look around            make ui
Compare strategies     source .venv/bin/activate && everest compare --strategies everest,tube --seeds 0,1
Change and rerun       edit params.yaml, then: source .venv/bin/activate && dvc repro
"""
_DEPLOY = (
    """Run as a deployment    prefect deployment run 'experiment/demo' --param overrides='{"finetune.epochs": 60}'"""
)


def show_results(
    summary: Summary, outcomes: Mapping[str, str], seconds: float, compared: Compared | None = None
) -> None:
    """The end of the main job: results with their cost, what a comparison says, the commands that lead further."""
    kinds = " or ".join(sorted({row.get("metric", "top-1") for row in summary["results"]}, reverse=True))
    rows = [
        {
            "benchmark": row["benchmark"],
            "strategy": row["strategy"],
            f"{kinds} % (95 % interval)": f"{row['top1']:.1f} ({row['top1_ci_low']:.1f}-{row['top1_ci_high']:.1f})",
            "trivial model": _number(row["trivial"] and row["trivial"]["top1"], 1),
            "G multiply-adds/clip": _number(row["gmacs_per_clip"], 3),
            "peak memory GiB": _number(row["peak_memory_gib"], 2),
            "clips/s": _number(row["clips_per_second"], 1),
            "wall s": _number(row["wall_seconds"], 0),
        }
        for row in summary["results"]
    ]
    seen = summary.get("pretraining")
    if seen is not None:
        for row in rows:
            row["pre-training"] = seen["verdict"]
    show(rows, "Results")
    if seen is not None:
        echo(f"Pre-training: {printable(seen['line'])}.")
        for sentence in seen["alarms"]:
            echo(f"- {printable(sentence)}")
    ran = sum(outcome == "ran" for outcome in outcomes.values())
    others = ", the others were up to date" if ran < len(outcomes) else ""
    echo(f"{ran} of {len(outcomes)} stages ran{others}; {seconds:.0f} s in all.\n")
    if compared is not None:
        for sentence in compared["sentences"]:
            echo(f"- {printable(sentence)}")
        echo("  (outputs/compare/report.html)\n")
    echo(_NEXT, nl=False)
    for one in summary["results"]:
        echo(f"Classify videos        everest predict FILES --model {_model(summary['recipe'], one['benchmark'])}")
    for one in summary["results"][:1]:
        model = _model(summary["recipe"], one["benchmark"])
        echo(
            f"Serve a model          mlflow models serve -m {model} --env-manager local --port 5001 "
            "(docs/your-videos.md, Serving)"
        )
    if summary["recipe"] == "demo":  # the deployments are the demo's and that of committed parameters
        echo(_DEPLOY)
    echo("")


def _model(recipe: str, benchmark: str) -> str:
    """The address of the model that the last test registered."""
    from pipeline.tracking.context import registered_name

    return f"models:/{registered_name(recipe, benchmark)}@candidate"


def show_comparison(outcome: Outcome) -> None:
    """The end of a comparison: results beside their cost, differences, and what they say in words."""
    show(outcome["results"], "Comparison")
    if outcome["differences"]:
        show(outcome["differences"], "Differences in points, with their 95 % interval")
    for sentence in outcome["sentences"]:
        echo(f"- {printable(sentence)}")
    report = printable(outcome["report"])
    echo(f"\nReport         {report}\nLook around    make ui")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
