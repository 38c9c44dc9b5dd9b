"""Stage `report`: one page with every benchmark's accuracy beside its cost.

Reads the metrics and histories in outputs/pretrain, outputs/finetune and outputs/evaluate; writes outputs/report/
{report.html, report.md, summary.json, *.svg} and the numbers of the whole experiment into its tracked parent run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.params import Params
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.system.files import atomic_folder

if TYPE_CHECKING:
    from pipeline.report.collect import Summary


def run(params: Params, benchmark: str | None = None) -> Summary:
    """Write the report; returns its summary.

    Raises:
        InputError: a benchmark has not been evaluated.
    """
    from pipeline.report.collect import collect, read_metrics
    from pipeline.report.experiment import write_report
    from pipeline.report.sentences import metric_key
    from pipeline.tracking import names, stage_run

    summary = collect(params)
    work = layout.work_dir("report", None, work_key("report", None, params))
    with stage_run("report", None, {"recipe": params.recipe}, work) as tracked:
        final = layout.output_dir("report")
        with atomic_folder(final) as building:
            files = write_report(summary, building)
            check_unchanged()
        for file in files:
            tracked.parent_artifact(final / file.name, "report")
        tracked.artifact(final / "report.html", "report")
        stages: list[tuple[str, str | None]] = [("pretrain", None)] if summary["pretrained_here"] else []
        stages += [(stage, name) for name in params.benchmarks for stage in ("finetune", "evaluate")]
        for stage, name in stages:  # those that were up to date have told this experiment's run nothing yet
            tracked.summary(names.of_experiment(stage, name, read_metrics(layout.results_file(stage, name))))
        tracked.metrics({f"{row['benchmark']}/{metric_key(row)}_percent": row["top1"] for row in summary["results"]})
    return summary
