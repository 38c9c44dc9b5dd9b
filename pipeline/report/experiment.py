"""The report of one experiment, from its summary and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline import layout
from pipeline.evaluation.files import read_confusion
from pipeline.monitor.record import record_of
from pipeline.report.benchmark_page import write_benchmark_pages
from pipeline.report.collect import DataVersion, ModelCost, Split, StageCost, Summary, read_history
from pipeline.report.page import Columns, Section, Table, duration, number, write_pages
from pipeline.report.plots import curves
from pipeline.report.sections.watched import draw_one, section_of
from pipeline.report.sentences import TOP1, BenchmarkResult, JudgedScore, Measured, TestScore, metric_of
from pipeline.report.spent_section import spent_section
from pipeline.tracking import names
from pipeline.tracking.context import uncommitted

PICTURES = (".png", ".jpg", ".gif", ".svg")
#: Larger pictures stay in their folder: the page must open quickly.
PICTURE_BYTES = 4 << 20
MOST_PICTURES = 6
#: Plots of what the monitor saw.
WATCHED = ("pretrain_share", "pretrain_probe", "pretrain_rank")

#: Columns that the tables of an experiment and of a comparison share.


def score_columns(rows: Sequence[TestScore]) -> Columns[TestScore]:
    """Score and interval; in a table of top-1 and mAP each says which it is."""
    kinds = sorted({metric_of(row) for row in rows}, reverse=True) or [TOP1]
    head = " or ".join(kinds) + " %"
    return {
        head: lambda row: number(row["top1"]) + f" {metric_of(row)}" * (len(kinds) > 1),
        "95 % interval": lambda row: f"{row['top1_ci_low']:.1f} – {row['top1_ci_high']:.1f}",
    }


REFERENCE_COLUMNS: Columns[JudgedScore] = {
    "chance %": lambda row: number(row["chance"]),
    "trivial model %": lambda row: number(row["trivial"] and row["trivial"]["top1"]),
}
MEASURED_COLUMNS: Columns[Measured] = {
    "tokens / clip": lambda row: number(row["tokens_per_clip"], 0),
    "peak memory GiB": lambda row: number(row["peak_memory_gib"], 2),
    "clips / s": lambda row: number(row["clips_per_second"], 1),
    "MFU": lambda row: number(row["mfu"], 1, percent=True),
    "energy Wh": lambda row: number(row["energy_wh"], 1),
    "wall time": lambda row: duration(row["wall_seconds"]),
}

Row = TypeVar("Row")


def shown_costs(columns: Columns[Row], rows: Sequence[Measured]) -> Columns[Row]:
    """The columns without energy where no machine tells it: a column of dashes says nothing."""
    hidden = set() if any(row["energy_wh"] for row in rows) else {"energy Wh"}
    return {head: cell for head, cell in columns.items() if head not in hidden}


def write_report(summary: Summary, folder: Path) -> list[Path]:
    """Write report.html, a page for each benchmark, report.md, summary.json and the plots into `folder`; the files."""
    plots = draw(summary)
    links = write_benchmark_pages(summary["results"], folder)
    sections = [
        results_section(summary),
        Section("Each benchmark", "Errors and hits as pictures, recall by class, calibration.", links=links),
        section_of(summary.get("pretraining"), [svg for name, svg in plots.items() if name in WATCHED]),
        _learning({name: svg for name, svg in plots.items() if name not in WATCHED}),
        _confusions(summary),
        _tokens(summary),
        costs_section(summary),
        spent_section(summary.get("spent", [])),
        where_from(summary["data"], summary["versions"]),
    ]
    title = f"Experiment {summary['recipe']}"
    commit = summary["versions"].get("git.commit", "unknown")[:10]
    dirty = uncommitted(summary["versions"])
    subtitle = f"Seed {summary['seed']}; code at {commit}{dirty}; torch {summary['versions'].get('torch', '?')}."
    pages = write_pages(folder, title, subtitle, summary["sentences"], summary, sections, plots)
    return pages + [folder / link.file for link in links]


def draw(summary: Summary) -> dict[str, str]:
    """Learning curves by file name; one that has no history is left out."""
    benchmarks = [row["benchmark"] for row in summary["results"]]
    plots: dict[str, str] = {}
    pretrain = read_history(layout.output_dir("pretrain") / "history.csv") if summary["pretrained_here"] else {}
    if pretrain.get(names.TRAIN_LOSS):
        plots["pretrain_loss"] = curves(
            {"loss": pretrain[names.TRAIN_LOSS]},
            title="Pre-training loss",
            x="optimizer step",
            y="mean squared error",
            smooth=10,
        )
    if seen := summary.get("pretraining"):
        plots |= draw_one(record_of(seen["record"]), pretrain.get(names.TRAIN_LOSS, []))
    histories = {b: read_history(layout.output_dir("finetune", b) / "history.csv") for b in benchmarks}
    loss = {b: h[names.TRAIN_LOSS] for b, h in histories.items() if h.get(names.TRAIN_LOSS)}
    if loss:
        plots["finetune_loss"] = curves(
            loss, title="Fine-tuning loss", x="optimizer step", y="cross-entropy", smooth=10
        )
    for *_, name, called in names.SCORES:
        validated = {b: h[name] for b, h in histories.items() if h.get(name)}
        shown = {b: [(step, 100 * value) for step, value in points] for b, points in validated.items()}
        if shown:
            plots[f"validation_{names.COLUMN_OF[name].removeprefix('val_')}"] = curves(
                shown, title=f"Validation {called}", x="optimizer step", y=f"{called} (%)", markers=True
            )
    return plots


def results_section(summary: Summary) -> Section:
    """Test scores of all benchmarks, beside what their trainings cost."""
    columns: Columns[BenchmarkResult] = {
        "benchmark": lambda row: row["benchmark"],
        "pre-training": lambda row: row["strategy"],
        **score_columns(summary["results"]),
        "top-5 %": lambda row: number(row["top5"]),
        **REFERENCE_COLUMNS,
        "videos": lambda row: f"{row['videos_ok']} of {row['videos_total']}",
        "G mult-adds / clip": lambda row: number(row["gmacs_per_clip"], 3),
        "peak memory GiB": lambda row: number(row["peak_memory_gib"], 2),
        "clips / s": lambda row: number(row["clips_per_second"], 1),
        "wall time": lambda row: duration(row["wall_seconds"]),
    }
    views = ", ".join(f"{row['benchmark']} {row['views']}" for row in summary["results"])
    note = (
        "Test accuracy beside what the fine-tuned model costs: multiply-adds of one forward of one clip; memory, rate "
        "and time of its fine-tuning. Intervals: bootstrap over videos. Trivial model: the best of regressions and "
        "nearest neighbours on grey pictures of 16 pixels and their differences. "
        f"Views averaged for each video: {views}."
    )
    section = Section("Results", note, [Table.of(summary["results"], columns, text=(0, 1))])
    splits: Columns[Split] = {
        "dataset": lambda row: row["dataset"],
        "splits": lambda row: ", ".join(map(str, row["splits"])),
        "mean top-1 %": lambda row: number(row["top1_mean"]),
        "deviation": lambda row: number(row["top1_deviation"]),
    }
    if summary["splits"]:
        section.tables.append(Table.of(summary["splits"], splits, "Mean over the official splits"))
    return section


def _learning(plots: dict[str, str]) -> Section:
    note = "Thin: every step; bold: mean over ten steps." if any("loss" in name for name in plots) else ""
    return Section("Learning curves", note, plots=list(plots.values()))


def _confusions(summary: Summary) -> Section:
    section = Section("Confusion matrices", "Videos by true class (rows) and predicted class (columns).")
    for row in summary["results"]:
        path = layout.output_dir("evaluate", row["benchmark"]) / "confusion.csv"
        if path.exists():
            section.add_confusion(str(row["benchmark"]), *read_confusion(path))
    return section


def _tokens(summary: Summary) -> Section:
    section = Section("Tokens", "What the model looks at. Dimmed tokens are dropped before the first block.")
    for row in summary["results"]:
        for path in sorted((layout.output_dir("evaluate", row["benchmark"]) / "pictures").glob("*.png")):
            section.add_picture(path, f"{row['benchmark']}: {path.stem.replace('-', ' ')}")
    folder = layout.output_dir("pretrain") / "pictures"
    files = sorted(p for p in folder.glob("*") if p.suffix in PICTURES) if summary["pretrained_here"] else []
    for path in files[:MOST_PICTURES]:
        if path.stat().st_size <= PICTURE_BYTES:
            how = "slot by slot" if path.suffix == ".gif" else "all slots"
            section.add_picture(path, f"Pre-training: {path.stem.replace('-', ' ')}, {how}")
    return section


def costs_section(summary: Summary) -> Section:
    """What each stage cost, beside what is published."""
    measured = dict(MEASURED_COLUMNS)
    after_wait = {head: measured.pop(head) for head in ("energy Wh", "wall time")}
    columns: Columns[StageCost] = {
        "stage": lambda row: row["stage"],
        "G mult-adds / clip": lambda row: number(row["gmacs_per_clip"], 3),
        **measured,
        "data wait": lambda row: number(row["loader_wait_fraction"], 1, percent=True),
        **after_wait,
    }
    costs = Table.of(summary["stages"], shown_costs(columns, summary["stages"]), "As measured in this experiment")
    return Section("Cost", tables=[costs, published_costs(summary["cost"])])


def published_costs(costs: Sequence[ModelCost]) -> Table:
    """Computed multiply-adds beside the published ones."""
    columns: Columns[ModelCost] = {
        "model": lambda row: row["size"],
        "clip": lambda row: row["clip"],
        "fine-tune, all tokens": lambda row: _beside(row["finetune_all"], row.get("finetune_all_published")),
        "fine-tune, EVEREST": lambda row: _beside(row["finetune_everest"], row.get("finetune_everest_published")),
        "pre-train, tube masking": lambda row: _beside(row["pretrain_tube"], row.get("pretrain_tube_published")),
        "pre-train, EVEREST": lambda row: _beside(row["pretrain_everest"], row.get("pretrain_everest_published")),
    }
    caption = (
        "G multiply-adds of one forward of one clip, computed from the configuration (published value in brackets). "
        "First row: this experiment's model and ratios."
    )
    return Table.of(costs, columns, caption, text=(0, 1))


def _beside(computed: float, published: float | None) -> str:
    value = number(computed, 3 if computed < 1 else 1)
    return value if published is None else f"{value} ({published:.1f})"


def where_from(data: Sequence[DataVersion], versions: Mapping[str, str]) -> Section:
    """Videos with their content hashes, and the code that made the numbers."""
    columns: Columns[DataVersion] = {
        "benchmark": lambda row: row["benchmark"],
        "train": lambda row: str(row.get("train", "–")),
        "val": lambda row: str(row.get("val", "–")),
        "test": lambda row: str(row.get("test", "–")),
        "quarantined": _quarantine,
        "manifest": lambda row: row["manifest_hash"][:12] or "–",
        "cache": lambda row: row["cache_hash"][:12] or "–",
    }
    videos = Table.of(data, columns, "Videos, and content hashes as DVC knows them")
    pairs = [[name, str(value)] for name, value in versions.items()]
    return Section("Data and code", tables=[videos, Table(("what", "version"), pairs, "Code", frozenset({0, 1}))])


def _quarantine(row: DataVersion) -> str:
    detail = ", ".join(f"{reason} {count}" for reason, count in row.get("reasons", {}).items())
    return f"{row.get('quarantined', '–')}" + (f" ({detail})" if detail else "")
