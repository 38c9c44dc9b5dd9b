"""The report of repeated experiments: a score for each split and seed, their mean and deviations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.metrics import mean_and_deviation
from pipeline.params import Params
from pipeline.report.collect import read_metrics
from pipeline.report.page import Section, Table, number
from pipeline.report.versions import versions
from pipeline.report.writing import write_pages


def summarise(params: Params, cells: Sequence[tuple[int, int, Path]]) -> dict[str, Any]:
    """Scores in percent of experiments (split, seed, folder).

    Returns:
        scores (benchmark, split, seed, top1, videos_ok, videos_total), results for each benchmark: `mean` of the
        splits' means over seeds, `between_splits` the deviation of those means, `between_seeds` the mean over splits
        of the deviation within one; None where there is only one. Deviations are those of a sample (n - 1).

    Raises:
        EverestError: a folder holds no score.
    """
    scores, results = [], []
    for benchmark in params.benchmarks:
        by_split: dict[int, list[float]] = {}
        for split, seed, folder in cells:
            path = folder / layout.results_file("evaluate", benchmark)
            found = read_metrics(path)
            if "eval/top1" not in found:
                raise EverestError(f"{path} has no eval/top1. Cure: delete it and start the same command again.")
            top1 = 100 * found["eval/top1"]
            by_split.setdefault(split, []).append(top1)
            counts = {name: int(found[f"eval/{name}"]) for name in ("videos_ok", "videos_total")}
            scores.append({"benchmark": benchmark, "split": split or None, "seed": seed, "top1": top1, **counts})
        pairs = [mean_and_deviation(values) for values in by_split.values()]
        mean, between_splits = mean_and_deviation([mean for mean, _ in pairs])
        within = [deviation for _, deviation in pairs if deviation is not None]
        results.append(
            {
                "benchmark": benchmark,
                "splits": len(by_split) if any(by_split) else 0,
                "seeds": len(next(iter(by_split.values()))),
                "mean": mean,
                "between_splits": between_splits,
                "between_seeds": sum(within) / len(within) if within else None,
            }
        )
    summary = {"recipe": params.recipe, "scores": scores, "results": results, "versions": versions()}
    return summary | {"sentences": [_sentence(row) for row in results]}


def _sentence(row: dict[str, Any]) -> str:
    """What the numbers support: a spread is only named where there are several values to have one."""
    splits = f"{row['splits']} official split{'s' * (row['splits'] > 1)}" if row["splits"] else "the data's own split"
    text = f"{row['benchmark']}: top-1 {row['mean']:.1f} % over {splits} with {row['seeds']} seed(s) each"
    spreads = [
        f"{row[key]:.1f} between {what}"
        for key, what in (("between_splits", "splits"), ("between_seeds", "seeds"))
        if row[key] is not None
    ]
    end = f"standard deviation {' and '.join(spreads)}" if spreads else "one value has no deviation"
    return f"{text}; {end}."


def write_report(summary: dict[str, Any], folder: Path) -> list[Path]:
    """report.html, report.md and summary.json in `folder`; their paths."""
    mean = Section(
        "Mean and deviation",
        "Top-1 in percent: mean over splits of the mean over seeds; sample standard deviations, a dash for one value.",
    )
    head = ["benchmark", "splits", "seeds", "top-1 %", "deviation between splits", "deviation between seeds"]
    mean.tables.append(
        Table(
            head,
            [
                [row["benchmark"], str(row["splits"] or "–"), str(row["seeds"]), number(row["mean"]),
                 number(row["between_splits"]), number(row["between_seeds"])]
                for row in summary["results"]
            ],
        )
    )  # fmt: skip
    every = Section("Every experiment", "Each split is pre-trained on its own training videos alone.")
    every.tables.append(
        Table(
            ["benchmark", "split", "seed", "top-1 %", "test videos"],
            [
                [row["benchmark"], str(row["split"] or "–"), str(row["seed"]), number(row["top1"]),
                 f"{row['videos_ok']} of {row['videos_total']}"]
                for row in summary["scores"]
            ],
        )
    )  # fmt: skip
    title = f"{summary['recipe']}, repeated"
    return write_pages(folder, title, "Official splits and seeds", summary, [mean, every], {})
