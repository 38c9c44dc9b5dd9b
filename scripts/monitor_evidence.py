"""Which of the monitor's numbers foretells the accuracy? Pre-trainings of different quality with the recipe drawn.

    python scripts/monitor_evidence.py FOLDER [--parallel 6] [--minutes 60]

writes the recipe's videos and caches into FOLDER, pre-trains the 20 variants below with a look at each tenth of the
training, fine-tunes each on both benchmarks as the recipe does, tests it on the test split's middle clips, and prints
Spearman's correlation of each number at 20 %, 50 % and 100 % of the pre-training with the accuracy. What is finished is
kept in FOLDER/variants.jsonl; started again, it continues. docs/monitoring.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from pipeline import layout
from pipeline.monitor.record import MonitorRecord, read_record
from pipeline.params import Params, load_params
from pipeline.tracking import names

ROOT = Path(__file__).resolve().parent.parent
#: At which shares of the pre-training numbers are taken.
SHARES = (0.2, 0.5, 1.0)
#: Variant -> what differs from the recipe. In this order: a run that is cut short has seen all kinds.
VARIANTS: dict[str, dict[str, object]] = {
    "drawn": {},
    "epochs-3": {"pretrain.epochs": 3},
    "rate-0.01": {"pretrain.base_lr": 8e-5},
    "tube": {"pretrain.strategy": "tube", "pretrain.keep_ratio": 1.0, "pretrain.frame_selection.mode": "none"},
    "epochs-12": {"pretrain.epochs": 12},
    "rate-0.1": {"pretrain.base_lr": 8e-4},
    "keep-0.3": {"pretrain.keep_ratio": 0.3, "pretrain.visible_ratio": 0.1},
    "random": {"pretrain.strategy": "random", "pretrain.keep_ratio": 1.0, "pretrain.frame_selection.mode": "none"},
    "rate-3": {"pretrain.base_lr": 2.4e-2},
    "epochs-6": {"pretrain.epochs": 6},
    "keep-0.8": {"pretrain.keep_ratio": 0.8},
    "rate-0.3": {"pretrain.base_lr": 2.4e-3},
    "visible-0.4": {"pretrain.visible_ratio": 0.4},
    "tube-epochs-6": {
        "pretrain.strategy": "tube", "pretrain.keep_ratio": 1.0, "pretrain.frame_selection.mode": "none",
        "pretrain.epochs": 6,
    },
    "rate-10": {"pretrain.base_lr": 8e-2},
    "decoder-1": {"pretrain.decoder_depth": 1},
    "one-corpus": {"pretrain.corpus": ["state_change"]},
    "random-rate-0.1": {
        "pretrain.strategy": "random", "pretrain.keep_ratio": 1.0, "pretrain.frame_selection.mode": "none",
        "pretrain.base_lr": 8e-4,
    },
    "epochs-1": {"pretrain.epochs": 1},
    "visible-0.1": {"pretrain.visible_ratio": 0.1},
    # Broken on purpose: they say what the rules of health make of them, and are no part of the correlations.
    "broken-rate-100": {"pretrain.base_lr": 0.8},
    "broken-rate-0": {"pretrain.base_lr": 1e-7},
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parallel", type=int, default=2, help="variants side by side")
    parser.add_argument("--minutes", type=float, default=600.0, help="no variant begins after so many")
    parser.add_argument("--variant", help="only this one, in this process")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(chosen.folder)
    if chosen.variant:
        return variant(chosen.variant)
    began = time.monotonic()
    prepare()
    side_by_side(chosen.parallel, began + 60 * chosen.minutes)
    sys.stdout.write(table(results()) + "\n")
    return 0


def params_of(name: str, workers: int = 2) -> Params:
    """The recipe's parameters with a variant's changes; one rank, and a look at each tenth of the pre-training."""
    changes = dict(VARIANTS.get(name, {}))
    epochs = int(str(changes.get("pretrain.epochs", 24)))
    base: dict[str, object] = {
        "compute.ranks": 1,
        "ingest.workers": workers,
        "preprocess.workers": workers,
        "pretrain.warmup_epochs": min(1.0, epochs / 4),
        "pretrain.monitor.unit": "epochs",
        "pretrain.monitor.every": epochs / 10,
        "pretrain.monitor.max_cost": 1.0,
        "pretrain.monitor.feature_clips": 600,
        "finetune.init": f"variants/{name}/pretrain/final",
        "finetune.validate_split": "test",
    }
    return load_params(ROOT / "recipes" / "drawn.yaml", {**base, **changes})


def prepare() -> None:
    """Videos, caches and corpora of the recipe, where they are not there yet."""
    from pipeline.stages import corpus, download, preprocess

    params = params_of("drawn", workers=len(os.sched_getaffinity(0)))
    for name in params.benchmarks:
        if not layout.corpus_file(name).exists():
            download.run(params, name)
            preprocess.run(params, name)
            corpus.run(params, name)


def side_by_side(parallel: int, until: float) -> None:
    """Run the variants that are not done yet, each in a process of its own."""
    done = {str(row["variant"]) for row in results()}
    waiting = [name for name in VARIANTS if name not in done]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        running = [child for child in running if child.poll() is None]
        if waiting and len(running) < parallel and time.monotonic() < until:
            name = waiting.pop(0)
            command = [sys.executable, str(Path(__file__).resolve()), ".", "--variant", name]
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
            continue
        if time.monotonic() >= until:
            waiting = []
        time.sleep(0.2)


def variant(name: str) -> int:
    """Pre-train one variant, fine-tune and test it on both benchmarks, and append what came out."""
    began, params, work = time.monotonic(), params_of(name), Path("variants") / name
    trained(work / "pretrain", "pretrain", None, params)
    row: dict[str, object] = {
        "variant": name,
        "record": json.loads((work / "pretrain" / "monitor.json").read_text(encoding="utf-8")),
        "history": (work / "pretrain" / "history.csv").read_text(encoding="utf-8"),
        "pretrain_seconds": time.monotonic() - began,
    }
    if not name.startswith("broken"):
        for benchmark in params.benchmarks:
            trained(work / benchmark, "finetune", benchmark, params)
            metrics = json.loads((work / benchmark / "final" / "metrics.json").read_text(encoding="utf-8"))
            row[f"top1_{benchmark}"] = metrics[names.VAL_TOP1]
    row["seconds"] = time.monotonic() - began
    with Path("variants.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


def trained(work: Path, stage: str, benchmark: str | None, params: Params) -> None:
    """One training to its end, untracked, in this process."""
    import torch

    from pipeline.distributed.groups import Ranks, choose_device
    from pipeline.distributed.heartbeat import Pulse
    from pipeline.system.processes import StopRequest
    from pipeline.training.worker import TrainingJob, train

    if (work / "final" / "metrics.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    job = TrainingJob(stage, benchmark, "auto", params.model_dump(mode="json"), str(work / "spool.jsonl"))
    train(job, work, Ranks(0, 1, 0, choose_device("auto")), Pulse(None), StopRequest())


def results() -> list[dict[str, object]]:
    """The rows of finished variants."""
    path = Path("variants.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(rows: Sequence[dict[str, object]]) -> str:
    """Spearman's correlations with their 95 % intervals (bootstrap over variants), as Markdown."""
    lines = ["| benchmark | number | " + " | ".join(f"at {100 * share:.0f} %" for share in SHARES) + " |"]
    lines.append("|---|---|" + "---|" * len(SHARES))
    for benchmark in ("motion", "state_change"):
        good = [row for row in rows if f"top1_{benchmark}" in row]
        accuracy = np.asarray([row[f"top1_{benchmark}"] for row in good], dtype=float)
        numbers = {
            "k-NN": names.monitor_of(names.KNN, benchmark),
            "ridge": names.monitor_of(names.RIDGE, benchmark),
            "RankMe": names.RANK_ME,
            "loss share (lower is better)": names.LOSS_SHARE,
            "held-out loss (lower is better)": names.HELDOUT_LOSS,
            "feature deviation": names.DEVIATION,
            "uniformity (lower is better)": names.UNIFORMITY,
        }
        for label, metric in numbers.items():
            cells = [cell(good, metric, share, accuracy, -1 if "lower" in label else 1) for share in SHARES]
            lines.append(f"| {benchmark} | {label} | {' | '.join(cells)} |")
        lines.append(
            f"| {benchmark} | *{len(good)} variants, top-1 {accuracy.min():.3f} to {accuracy.max():.3f}* | | | |"
        )
    return "\n".join(lines)


def cell(rows: Sequence[dict[str, object]], metric: str, share: float, accuracy: np.ndarray, sign: int) -> str:
    """`0.83 (0.60 to 0.94)` over the variants that measured the metric."""
    pairs = []
    for row, top1 in zip(rows, accuracy, strict=True):
        value = at(record_of(row), metric, share)
        if value is not None:
            pairs.append((sign * value, top1))
    if len(pairs) < 5:
        return "–"
    values = np.asarray(pairs)
    rng = np.random.default_rng(0)
    draws = [spearmanr(values[rng.integers(0, len(values), len(values))]).statistic for _ in range(2000)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"{spearmanr(values).statistic:.2f} ({low:.2f} to {high:.2f})"


def record_of(row: dict[str, object]) -> MonitorRecord:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "monitor.json").write_text(json.dumps(row["record"]), encoding="utf-8")
        record = read_record(Path(folder))
    assert record is not None
    return record


def at(record: MonitorRecord, metric: str, share: float) -> float | None:
    """A metric at the first look after that share of the steps."""
    found = [value for step, _, value in record.curve(metric) if step >= share * record.steps - 1e-9]
    return found[0] if found else None


if __name__ == "__main__":
    raise SystemExit(main())
