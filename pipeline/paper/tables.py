"""The paper's tables: those of the reports, cell by cell, with an origin for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.paper.origins import DIGITS, Origin, TrainingOrigin
from pipeline.report.page import Columns, Table
from pipeline.report.repetition import repetition_tables

if TYPE_CHECKING:
    from pipeline.recipes import Deviation
    from pipeline.report.collect import Summary as Experiment
    from pipeline.report.comparison import Summary as Comparison
    from pipeline.report.repetition import Summary as Repetition


@dataclass(frozen=True)
class PaperTable:
    """A table under the name of its files.

    Attributes:
        origins: of each row; () for a table of words, whose cells are no results.
        source: the file that it shows.
    """

    name: str
    table: Table
    source: str
    origins: Sequence[Origin] = ()


def comparison_tables(
    summary: Comparison, results: Sequence[Origin], differences: Sequence[Origin], costs: Sequence[Origin]
) -> list[PaperTable]:
    """Scores, differences and costs as `outputs/compare/report.html` shows them."""
    from pipeline.report.comparison_page import costs_section, results_section

    note = f"pre-trainings planned at equal {summary['equal']}, seeds {', '.join(map(str, summary['seeds']))}"
    source, scores = "outputs/compare/summary.json", results_section(summary).tables
    tables = [PaperTable("comparison", _captioned(scores[0], f"Test scores, {note}; means over seeds, intervals over "
                                                             "test videos and seeds"), source, results)]  # fmt: skip
    if summary["differences"]:
        caption = "Differences on the same test videos, in points, with their 95 % intervals"
        tables.append(PaperTable("differences", _captioned(scores[1], caption), source, differences))
    cost = costs_section(summary).tables
    caption = "Pre-training's cost: multiply-adds of the tokens that clips kept; the rest as measured, mean over seeds"
    tables.append(PaperTable("comparison_cost", _captioned(cost[0], caption), source, costs))
    tables.append(PaperTable("published_cost", cost[1], source))
    return tables


def experiment_tables(summary: Experiment, results: Sequence[Origin], stages: Sequence[Origin]) -> list[PaperTable]:
    """Scores and costs as `outputs/report/report.html` shows them."""
    from pipeline.report.experiment import costs_section, results_section

    source, scores = "outputs/report/summary.json", results_section(summary).tables
    caption = f"Test scores of recipe {summary['recipe']}, seed {summary['seed']}; intervals over test videos"
    cost = costs_section(summary).tables[0]
    return [
        PaperTable("results", _captioned(scores[0], caption), source, results),
        PaperTable("cost", _captioned(cost, "What each training and test cost, as measured"), source, stages),
    ]


def repetition_paper_tables(summary: Repetition, origin: Origin) -> list[PaperTable]:
    """Means over splits and seeds as `outputs/repeat/report.html` shows them."""
    mean, every = repetition_tables(summary)
    source = "outputs/repeat/summary.json"
    return [
        PaperTable("repetition", _captioned(mean, "Means and sample deviations over official splits and seeds"), source,
                   [origin] * len(mean.rows)),
        PaperTable("repetition_each", _captioned(every, "Each split and seed"), source, [origin] * len(every.rows)),
    ]  # fmt: skip


def deviations_table(rows: Sequence[Deviation], recipe: str) -> PaperTable:
    """What params.yaml does otherwise than the published recipe."""
    columns: Columns[Deviation] = {
        "benchmark": lambda row: row["benchmark"],
        "parameter": lambda row: row["key"],
        "published": lambda row: str(row["paper"]),
        "here": lambda row: str(row["ours"]),
        "note": lambda row: row["note"],
    }
    caption = f"Deviations of recipe {recipe} from the published one"
    return PaperTable("deviations", Table.of(rows, columns, caption, text=(0, 1, 2, 3, 4)), "params.yaml")


def origins_table(rows: Sequence[TrainingOrigin]) -> PaperTable:
    """Each training's runs, code and data."""
    columns: Columns[TrainingOrigin] = {
        "benchmark": lambda row: row.benchmark,
        "strategy": lambda row: row.strategy,
        "seed": lambda row: str(row.seed),
        "test": lambda row: row.evaluate[:DIGITS] or "–",
        "fine-tuning": lambda row: row.finetune[:DIGITS] or "–",
        "pre-training": lambda row: row.pretrain[:DIGITS] or "–",
        "commit": lambda row: row.commit,
        "manifest, cache": lambda row: row.data,
    }
    caption = (
        "Beginnings of the tracked runs, the commit and the data's hashes behind the numbers; whole in numbers.csv"
    )
    return PaperTable("origins", Table.of(rows, columns, caption, text=(0, 1, 3, 4, 5, 6, 7)), "the tracking store")


def _captioned(table: Table, caption: str) -> Table:
    return replace(table, caption=caption)
