"""The page of one benchmark: errors, hits, recall by class and calibration, from :mod:`pipeline.report.benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.budgets import Sweep
from pipeline.evaluation.calibration import Bin
from pipeline.evaluation.examples import Example
from pipeline.evaluation.temperature import Temperature
from pipeline.report.benchmark import Calibration, ClassPrecision, ClassRecall, Findings, findings
from pipeline.report.budget_section import TITLE as BUDGETS
from pipeline.report.budget_section import budget_section, put_back
from pipeline.report.page import Card, Columns, Link, Section, Table, data_address, html, number
from pipeline.report.plots import bars, ranges, reliability
from pipeline.report.sentences import BenchmarkResult, metric_of
from pipeline.system.files import write_text

#: Classes in the plot, and in the table; per_class.csv has all.
PLOTTED, LISTED = 24, 1000
#: A gap between confidence and accuracy below this many points is not called one.
SMALL_GAP = 2.0


def write_benchmark_pages(results: Sequence[BenchmarkResult], folder: Path) -> list[Link]:
    """Write a page for each benchmark that has predictions; links to them."""
    links = []
    for row in results:
        facts = findings(row["benchmark"])
        if facts is not None:
            file = f"benchmark-{row['benchmark']}.html"
            write_text(folder / file, page(facts, row))
            links.append(Link(row["benchmark"], file))
    return links


def page(findings: Findings, result: BenchmarkResult) -> str:
    """The page as HTML."""
    if findings.several:
        return _page_of_several(findings, result)
    sections = [
        Section("", links=[Link("All benchmarks", "report.html")]),
        _examples(
            "Most confident errors",
            "Wrong answers by falling confidence: wrong labels, classes that look alike, true weaknesses.",
            findings.errors,
            findings,
        ),
        _examples(
            "Least confident hits",
            "Right answers by rising confidence: the first to be lost.",
            findings.hits,
            findings,
        ),
        _recall(findings),
        _calibration(findings),
        *([budget_section(findings.sweep)] if findings.sweep else []),
    ]
    subtitle = f"Test of the fine-tuned model, {result['views']} views averaged for each video."
    return html(
        f"Benchmark {findings.benchmark}",
        subtitle,
        _sentences(findings, result),
        [s for s in sections if s.shown or s.title == BUDGETS],
    )


def _page_of_several(findings: Findings, result: BenchmarkResult) -> str:
    """As :func:`page`, of videos with several classes each."""
    sections = [
        Section("", links=[Link("All benchmarks", "report.html")]),
        _examples(
            "Surest wrong classes",
            "Of each video the class that it does not have and that is given most: missing labels, classes that occur "
            "together, true weaknesses.",
            findings.errors,
            findings,
        ),
        _examples(
            "Least seen classes",
            "Of each video the one of its own classes that is given least: wrong labels, what is too short or small.",
            findings.hits,
            findings,
        ),
        _precision(findings.precision, len(findings.classes)),
        _calibration(findings),
        *([budget_section(findings.sweep)] if findings.sweep else []),
    ]
    subtitle = (
        f"Test of the fine-tuned model on videos with several classes each, {result['views']} views averaged for each "
        "video."
    )
    shown = [section for section in sections if section.shown or section.title == BUDGETS]
    return html(f"Benchmark {findings.benchmark}", subtitle, _sentences_of_several(findings, result), shown)


def _sentences(findings: Findings, result: BenchmarkResult) -> list[str]:
    score = f"{result['top1']:.1f} % top-1 (95 % interval {result['top1_ci_low']:.1f} to {result['top1_ci_high']:.1f})"
    lines = [f"{score}: {findings.wrong:,} of {findings.videos:,} test videos are answered wrongly."]
    worst = findings.recall[0]
    if worst.recall < 1:
        lines.append(
            f"The class found least often is {worst.name}: {100 * worst.recall:.0f} % of {worst.videos} videos "
            f"(95 % interval {100 * worst.interval.low:.0f} to {100 * worst.interval.high:.0f}), most often taken for "
            f"{worst.mistaken}."
        )
    measured = findings.calibration
    confident, right = 100 * measured.confidence, 100 * measured.accuracy
    gap = confident - right
    verdict = "as sure as it is right" if abs(gap) < SMALL_GAP else "too sure of itself" if gap > 0 else "too modest"
    lines.append(f"On average the model is {verdict}: confidence {confident:.1f} %, right in {right:.1f} %.")
    if isinstance(findings.sweep, Sweep):
        lines.append(put_back(findings.sweep))
    return lines


def _examples(title: str, note: str, examples: Sequence[Example], findings: Findings) -> Section:
    shown = " Left the clip, right the tokens that the model keeps." * bool(findings.clips)
    return Section(title, note + shown, cards=[_card(one, findings) for one in examples])


def _card(one: Example, findings: Findings) -> Card:
    clip = findings.clips.get(one.video_id)
    picture = data_address(clip) if clip else ""
    if findings.several:
        truth = ", ".join(findings.classes[number] for number in one.labels) or "none of the classes"
        missed = one.predicted in one.labels
        said = f"{findings.classes[one.predicted]} given {100 * one.confidence:.1f} %" + ", though it is there" * missed
        return Card(f"is {truth}", [said, one.video_id], picture)
    label, predicted = findings.classes[one.label], findings.classes[one.predicted]
    if one.label == one.predicted:
        return Card(label, [f"{100 * one.confidence:.1f} % sure", one.video_id], picture)
    said = f"said {predicted}, {100 * one.confidence:.1f} % sure"
    true = f"true class given {100 * one.true_probability:.1f} %"
    return Card(f"is {label}", [said, true, one.video_id], picture)


def _recall(findings: Findings) -> Section:
    columns: Columns[ClassRecall] = {
        "class": lambda row: row.name,
        "videos": lambda row: f"{row.videos:,}",
        "recall %": lambda row: number(100 * row.recall),
        "95 % interval": lambda row: f"{100 * row.interval.low:.1f} – {100 * row.interval.high:.1f}",
        "most often taken for": lambda row: f"{row.mistaken} ({row.mistakes})" if row.mistakes else "–",
    }
    table = Table.of(findings.recall[:LISTED], columns, text=(0, 4))
    table.tall = len(table.rows) > PLOTTED
    hidden = len(findings.recall) - len(table.rows)
    cut = f" The {hidden:,} classes with the highest recall are left out here; per_class.csv has them." * (hidden > 0)
    empty = len(findings.classes) - len(findings.recall)
    without = f" {empty} classes have no test video." * (empty > 0)
    shown = findings.recall[:PLOTTED]
    plot = ranges(
        [row.name if len(row.name) <= 32 else f"{row.name[:31]}…" for row in shown],
        [(100 * row.recall, 100 * row.interval.low, 100 * row.interval.high) for row in shown],
        title="Recall by class" if len(shown) == len(findings.recall) else f"The {len(shown)} classes of lowest recall",
        x="recall (%), 95 % interval",
    )
    note = (
        "Share of a class's test videos that are given this class, with Wilson's interval: of a class with few videos "
        f"little is known.{without}{cut}"
    )
    return Section("Recall by class", note, [table], [plot])


def _calibration(findings: Findings) -> Section:
    measured, series = findings.calibration, {"as tested": _points(findings.calibration.bins)}
    rows = [("as tested", measured)]
    if findings.calibrated and findings.temperature and findings.temperature.value:
        name = f"temperature {findings.temperature.value:.2f}"
        rows.append((name, findings.calibrated))
        series[name] = _points(findings.calibrated.bins)
    columns: Columns[tuple[str, Calibration]] = {
        "confidence": lambda row: row[0],
        "mean %": lambda row: number(100 * row[1].confidence),
        "right %": lambda row: number(100 * row[1].accuracy),
        "calibration error %": lambda row: number(100 * row[1].error),
        "negative log-likelihood": lambda row: number(row[1].nll, 3),
    }
    note = (
        "Decisions whether a test video has a class, in bins by the probability of the answer"
        if findings.several
        else "Test videos in bins by the probability of the predicted class"
    ) + f"; on the dashed line it is right as often as it says. {_temperature(findings.temperature)}"
    plots = [
        reliability(series, title="Reliability"),
        bars(
            [f"{100 * one.low:.0f}" for one in measured.bins],
            [one.videos for one in measured.bins],
            title=f"{'Decisions' if findings.several else 'Videos'} by confidence, as tested",
            x="confidence from (%)",
            y="decisions" if findings.several else "videos",
        ),
    ]
    return Section("Calibration", note, [Table.of(rows, columns)], plots)


def _temperature(fitted: Temperature | None) -> str:
    """What a temperature is and where this one is from, or why there is none."""
    if fitted is None:
        return ""
    if fitted.value is None:
        return f"No temperature was fitted: {fitted.reason}."
    return (
        "At temperature T a probability p becomes p^(1/T), normalised: the answers stay, their confidence changes. "
        f"T = {fitted.value:.3f} was fitted on {fitted.videos:,} validation videos and is kept "
        "in the registered model's model.json; everest predict and serving apply it, the scores here are as tested."
    )


def _points(bins: Sequence[Bin]) -> list[tuple[float, float, float, float]]:
    """As the plot takes them, in percent."""
    return [(100 * one.confidence, 100 * one.accuracy, 100 * one.interval.low, 100 * one.interval.high) for one in bins]


def _precision(precision: Sequence[ClassPrecision], classes: int) -> Section:
    """Table and plot of the average precision of each class."""
    columns: Columns[ClassPrecision] = {
        "class": lambda row: row.name,
        "videos": lambda row: f"{row.videos:,}",
        "average precision %": lambda row: number(100 * row.precision),
        "95 % interval": lambda row: f"{100 * row.interval.low:.1f} – {100 * row.interval.high:.1f}",
        "chance %": lambda row: number(100 * row.chance),
    }
    table = Table.of(precision[:LISTED], columns, text=(0,))
    table.tall = len(table.rows) > PLOTTED
    hidden, without = len(precision) - len(table.rows), classes - len(precision)
    cut = f" The {hidden:,} classes with the highest are left out here; per_class.csv has them." * (hidden > 0)
    absent = f" {without} classes have no test video and count in no mean." * (without > 0)
    shown = precision[:PLOTTED]
    plot = ranges(
        [row.name if len(row.name) <= 32 else f"{row.name[:31]}…" for row in shown],
        [(100 * row.precision, 100 * row.interval.low, 100 * row.interval.high) for row in shown],
        title="Average precision by class" if len(shown) == len(precision) else f"The {len(shown)} lowest classes",
        x="average precision (%), 95 % interval",
    )
    note = (
        "All test videos are ranked by a class's probability; of each video that has the class, the share of such "
        "videos among those ranked as high or higher; their mean. A ranking by chance reaches the share of videos that "
        f"have the class, and more where few have it. Intervals: bootstrap over videos.{absent}{cut}"
    )
    return Section("Average precision by class", note, [table], [plot])


def _sentences_of_several(findings: Findings, result: BenchmarkResult) -> list[str]:
    """The test in a few sentences."""
    interval = f"{result['top1_ci_low']:.1f} to {result['top1_ci_high']:.1f}"
    score = f"{result['top1']:.1f} % {metric_of(result)}"
    lines = [
        f"{score} (95 % interval {interval}; by chance {result['chance']:.1f} %): the mean of the average precision of "
        f"{len(findings.precision)} classes over {findings.videos:,} test videos.",
        f"The most probable class is none of the video's in {findings.wrong:,} of them.",
    ]
    worst = findings.precision[0]
    if worst.precision < 1:
        lines.append(
            f"The class ranked worst is {worst.name}: {100 * worst.precision:.0f} % of {worst.videos} videos (95 % "
            f"interval {100 * worst.interval.low:.0f} to {100 * worst.interval.high:.0f}, by chance "
            f"{100 * worst.chance:.0f})."
        )
    if isinstance(findings.sweep, Sweep):
        lines.append(put_back(findings.sweep))
    return lines
