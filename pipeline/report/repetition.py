"""The report of repeated experiments: a score for each split and seed, their mean and deviations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NotRequired, TypedDict

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.evaluation.metrics import mean_and_deviation
from pipeline.params import Params
from pipeline.params.benchmarks import PUBLISHED
from pipeline.report.collect import read_metrics, versions
from pipeline.report.page import Columns, Section, Table, number, write_pages
from pipeline.report.sentences import metric_entry, metric_of
from pipeline.tracking import names


class RepetitionScore(TypedDict):
    """The score of one experiment in percent, top-1 or what `metric` says.

    `split` is None where the data set has no official splits.
    """

    benchmark: str
    split: int | None
    seed: int
    top1: float
    metric: NotRequired[str]
    videos_ok: int
    videos_total: int


class Repeated(TypedDict):
    """One benchmark over splits and seeds, in percent.

    `mean` of the splits' means over seeds, `between_splits` the deviation of those means, `between_seeds` the mean over
    splits of the deviation within one; None where there is only one. Deviations are those of a sample (n - 1).
    """

    benchmark: str
    splits: int
    seeds: int
    mean: float
    between_splits: float | None
    between_seeds: float | None
    metric: NotRequired[str]


class Summary(TypedDict):
    """A repetition's summary.json."""

    recipe: str
    scores: list[RepetitionScore]
    results: list[Repeated]
    versions: dict[str, str]
    sentences: list[str]


def summarise(params: Params, cells: Sequence[tuple[int, int, Path]]) -> Summary:
    """Scores of experiments (split, seed, folder), and their mean and deviations.

    Raises:
        EverestError: a folder holds no score.
    """
    scores: list[RepetitionScore] = []
    results: list[Repeated] = []
    for benchmark in params.benchmarks:
        published = PUBLISHED.get(params.benchmark(benchmark).data.dataset)
        has_splits = published is not None and published.splits > 1
        by_split: dict[int, dict[int, list[float]]] = {}
        for split, seed, folder in cells:
            path = folder / layout.results_file("evaluate", benchmark)
            metrics = read_metrics(path)
            score, kind = names.score_of(metrics), metric_entry(names.EVAL_MAP in metrics)
            if score is None:
                raise EverestError(
                    f"{path} has no {names.EVAL_TOP1}. Cure: delete it and start the same command again."
                )
            top1 = 100 * score.value
            # Without official splits the videos are the same beside each split of another benchmark.
            split = split if has_splits else 0
            by_split.setdefault(split, {}).setdefault(seed, []).append(top1)
            scores.append(
                {
                    "benchmark": benchmark,
                    "split": split or None,
                    "seed": seed,
                    "top1": top1,
                    **kind,
                    "videos_ok": int(metrics[names.EVAL_VIDEOS_OK]),
                    "videos_total": int(metrics[names.EVAL_VIDEOS_TOTAL]),
                }
            )
        pairs = [mean_and_deviation([fmean(one) for one in by_seed.values()]) for by_seed in by_split.values()]
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
                **kind,
            }
        )
    return {
        "recipe": params.recipe,
        "scores": scores,
        "results": results,
        "versions": versions(),
        "sentences": [_sentence(row) for row in results],
    }


def _sentence(row: Repeated) -> str:
    """What the numbers support: a spread is only named where there are several values to have one."""
    splits = f"{row['splits']} official split{'s' * (row['splits'] > 1)}" if row["splits"] else "the data's own split"
    text = f"{row['benchmark']}: {metric_of(row)} {row['mean']:.1f} % over {splits} with {row['seeds']} seed(s) each"
    pairs = ((row["between_splits"], "splits"), (row["between_seeds"], "seeds"))
    spreads = [f"{deviation:.1f} between {what}" for deviation, what in pairs if deviation is not None]
    end = f"standard deviation {' and '.join(spreads)}" if spreads else "one value has no deviation"
    return f"{text}; {end}."


def write_report(summary: Summary, folder: Path) -> list[Path]:
    """report.html, report.md and summary.json in `folder`; their paths."""
    mean, every = repetition_tables(summary)
    called = _called(summary)
    sections = [
        Section(
            "Mean and deviation",
            f"{called[0].upper()}{called[1:]} in percent: mean over splits of the mean over seeds; sample standard "
            "deviations, a dash for one value.",
            [mean],
        ),
        Section(
            "Every experiment",
            "Each split is pre-trained on its own training videos alone.",
            [every],
        ),
    ]
    title = f"{summary['recipe']}, repeated"
    return write_pages(folder, title, "Official splits and seeds", summary["sentences"], summary, sections, {})


def repetition_tables(summary: Summary) -> tuple[Table, Table]:
    """Mean and deviations of each benchmark, and each experiment's score."""
    called = _called(summary)
    results: Columns[Repeated] = {
        "benchmark": lambda row: row["benchmark"],
        "splits": lambda row: str(row["splits"] or "–"),
        "seeds": lambda row: str(row["seeds"]),
        f"{called} %": lambda row: number(row["mean"]),
        "deviation between splits": lambda row: number(row["between_splits"]),
        "deviation between seeds": lambda row: number(row["between_seeds"]),
    }
    scores: Columns[RepetitionScore] = {
        "benchmark": lambda row: row["benchmark"],
        "split": lambda row: str(row["split"] or "–"),
        "seed": lambda row: str(row["seed"]),
        f"{called} %": lambda row: number(row["top1"]),
        "test videos": lambda row: f"{row['videos_ok']} of {row['videos_total']}",
    }
    return Table.of(summary["results"], results), Table.of(summary["scores"], scores)


def _called(summary: Summary) -> str:
    return " or ".join(sorted({metric_of(row) for row in summary["results"]}, reverse=True))
