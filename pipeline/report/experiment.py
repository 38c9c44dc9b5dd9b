"""The report of one experiment, from its summary and the files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.evaluation.files import read_confusion
from pipeline.report.collect import read_history
from pipeline.report.lineage_text import uncommitted
from pipeline.report.page import Section, Table, duration, number
from pipeline.report.plots import curves
from pipeline.report.writing import write_pages

PICTURES = (".png", ".jpg", ".gif", ".svg")
#: Larger pictures stay in their folder: the page must open quickly.
PICTURE_BYTES = 4 << 20
MOST_PICTURES = 6


def write_report(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.html, report.md, summary.json and the plots into `folder`; the files."""
    plots = draw(summary)
    sections = [
        _results(summary),
        _learning(plots),
        _confusions(summary),
        _tokens(summary),
        _costs(summary),
        where_from(summary),
    ]
    title = f"Experiment {summary['recipe']}"
    commit = summary["versions"].get("git.commit", "unknown")[:10]
    dirty = uncommitted(summary["versions"])
    subtitle = f"Seed {summary['seed']}; code at {commit}{dirty}; torch {summary['versions'].get('torch', '?')}."
    return write_pages(folder, title, subtitle, summary, sections, plots)


def draw(summary: dict[str, Any]) -> dict[str, str]:
    """Learning curves by file name; one that has no history is left out."""
    benchmarks = [row["benchmark"] for row in summary["results"]]
    found: dict[str, str] = {}
    pretrain = read_history(layout.output_dir("pretrain") / "history.csv") if summary["pretrained_here"] else {}
    if pretrain.get("loss"):
        found["pretrain_loss"] = curves(
            {"loss": pretrain["loss"]},
            title="Pre-training loss",
            x="optimizer step",
            y="mean squared error",
            smooth=10,
        )
    histories = {b: read_history(layout.output_dir("finetune", b) / "history.csv") for b in benchmarks}
    loss = {b: h["loss"] for b, h in histories.items() if h.get("loss")}
    if loss:
        found["finetune_loss"] = curves(
            loss, title="Fine-tuning loss", x="optimizer step", y="cross-entropy", smooth=10
        )
    top1 = {b: [(s, 100 * v) for s, v in h["val_top1"]] for b, h in histories.items() if h.get("val_top1")}
    if top1:
        found["validation_top1"] = curves(
            top1, title="Validation top-1", x="optimizer step", y="top-1 (%)", markers=True
        )
    return found


def _results(summary: dict[str, Any]) -> Section:
    head: tuple[str, ...] = (
        "benchmark", "pre-training", "top-1 %", "95 % interval", "top-5 %", "chance %", "videos", "G "
        "mult-adds / clip",
        "peak memory GiB", "clips / s", "wall time",
    )  # fmt: skip
    rows = [
        [
            row["benchmark"],
            row["strategy"],
            number(row["top1"]),
            f"{row['top1_ci_low']:.1f} – {row['top1_ci_high']:.1f}",
            number(row["top5"]),
            number(row["chance"]),
            f"{row['videos_ok']} of {row['videos_total']}",
            number(row["gmacs_per_clip"], 3),
            number(row["peak_memory_gib"], 2),
            number(row["clips_per_second"], 0),
            duration(row["wall_seconds"]),
        ]
        for row in summary["results"]
    ]
    views = ", ".join(f"{row['benchmark']} {row['views']}" for row in summary["results"])
    note = (
        "Test accuracy beside what the fine-tuned model costs: multiply-adds of one forward of one clip; memory, rate "
        f"and time of its fine-tuning. Intervals: bootstrap over videos. Views averaged for each video: {views}."
    )
    section = Section("Results", note, [Table(head, rows, text=frozenset({0, 1}))])
    if summary["splits"]:
        rows = [
            [
                row["dataset"],
                ", ".join(map(str, row["splits"])),
                number(row["top1_mean"]),
                number(row["top1_deviation"]),
            ]
            for row in summary["splits"]
        ]
        head = ("dataset", "splits", "mean top-1 %", "deviation")
        section.tables.append(Table(head, rows, "Mean over the official splits"))
    return section


def _learning(plots: dict[str, str]) -> Section:
    note = "Thin: every step; bold: mean over ten steps." if any("loss" in name for name in plots) else ""
    return Section("Learning curves", note, plots=list(plots.values()))


def _confusions(summary: dict[str, Any]) -> Section:
    section = Section("Confusion matrices", "Videos by true class (rows) and predicted class (columns).")
    for row in summary["results"]:
        path = layout.output_dir("evaluate", row["benchmark"]) / "confusion.csv"
        if path.exists():
            section.add_confusion(str(row["benchmark"]), *read_confusion(path))
    return section


def _tokens(summary: dict[str, Any]) -> Section:
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


def _costs(summary: dict[str, Any]) -> Section:
    head: tuple[str, ...] = (
        "stage", "G mult-adds / clip", "tokens / clip", "peak memory GiB", "clips / s", "MFU", "data wait",
        "energy Wh", "wall time",
    )  # fmt: skip
    # Few machines tell their energy: no column of dashes elsewhere.
    shown = [index for index in range(len(head)) if index != 7 or any(r["energy_wh"] for r in summary["stages"])]
    rows = [
        [
            row["stage"],
            number(row["gmacs_per_clip"], 3),
            number(row["tokens_per_clip"], 0),
            number(row["peak_memory_gib"], 2),
            number(row["clips_per_second"], 0),
            number(row["mfu"], 1, percent=True),
            number(row["loader_wait_fraction"], 1, percent=True),
            number(row["energy_wh"], 1),
            duration(row["wall_seconds"]),
        ]
        for row in summary["stages"]
    ]
    measured = Table([head[i] for i in shown], [[r[i] for i in shown] for r in rows], "As measured in this experiment")
    section = Section("Cost", tables=[measured])
    section.tables.append(published_costs(summary["cost"]))
    return section


def published_costs(cost: list[dict[str, Any]]) -> Table:
    """Computed multiply-adds beside the published ones."""
    names = ("finetune_all", "finetune_everest", "pretrain_tube", "pretrain_everest")
    head = (
        "model", "clip", "fine-tune, all tokens", "fine-tune, EVEREST", "pre-train, tube masking",
        "pre-train, EVEREST",
    )  # fmt: skip
    rows = [[f"{row['size']}", row["clip"], *(_beside(row, name) for name in names)] for row in cost]
    caption = (
        "G multiply-adds of one forward of one clip, computed from the configuration (published value in brackets). "
        "First row: this experiment's model and ratios."
    )
    return Table(head, rows, caption, frozenset({0, 1}))


def _beside(row: dict[str, Any], name: str) -> str:
    value = number(row[name], 3 if row[name] < 1 else 1)
    published = row.get(f"{name}_published")
    return value if published is None else f"{value} ({published:.1f})"


def where_from(summary: dict[str, Any]) -> Section:
    """Videos with their content hashes, and the code that made the numbers."""
    section = Section("Data and code")
    rows = [
        [
            row["benchmark"],
            *(str(row.get(split, "–")) for split in ("train", "val", "test")),
            _quarantine(row),
            row["manifest_hash"][:12] or "–",
            row["cache_hash"][:12] or "–",
        ]
        for row in summary["data"]
    ]
    head = ("benchmark", "train", "val", "test", "quarantined", "manifest", "cache")
    section.tables.append(Table(head, rows, "Videos, and content hashes as DVC knows them"))
    pairs = [[name, str(value)] for name, value in summary["versions"].items()]
    section.tables.append(Table(("what", "version"), pairs, "Code", frozenset({0, 1})))
    return section


def _quarantine(row: dict[str, Any]) -> str:
    reasons = row.get("reasons", {})
    detail = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"{row.get('quarantined', '–')}" + (f" ({detail})" if detail else "")
