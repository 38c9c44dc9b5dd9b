"""Where everything lies: the one place that spells paths. All are relative to the project's root.

data/raw/<name>         videos, outside DVC (their SHA-256 are in the manifest); moved by EVEREST_DATA
data/manifests/<bench>  manifest.parquet, quarantine.csv, classes.json
data/cache/<bench>      frames and distance maps, in large shards
data/corpus/<bench>     which videos of a benchmark are pre-trained on
outputs/<stage>[/bench] models, predictions, the report
outputs/records/<stage>[/bench].json  the values that a stage's outputs were computed with
metrics/<stage>[/bench] what `dvc metrics show` prints: a headline; all numbers are in outputs/ and MLflow
.work/<stage>/<key>     checkpoints and unfinished work; ignored by git and DVC; those of the checkout for its worktrees
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

WORK = Path(".work")
#: Where flow runs work, in the checkout: a folder each, named after the run.
WORKTREES = WORK / "worktrees"
#: The variable that names the flow run to all its stages and ranks; Prefect's limit of which a training has a slot, and
#: the pools that workers take runs from: all runs', and that of data made elsewhere than trainings.
RUN_VARIABLE, LIMIT, POOL, DATA_POOL = "EVEREST_PREFECT_RUN", "gpu", "everest", "everest-cpu"
#: The lock of the one training of a checkout.
TRAINING_LOCK = WORK / "training.lock"
_CHECKPOINT = re.compile(r"step-(\d{9})")


def data_root() -> Path:
    """The folder of the raw videos' parent: EVEREST_DATA (one store for several checkouts) or `data`."""
    return Path(os.environ.get("EVEREST_DATA", "data"))


def raw_dir(name: str) -> Path:
    return data_root() / "raw" / name


def manifest_dir(benchmark: str) -> Path:
    return Path("data/manifests") / benchmark


def cache_dir(benchmark: str) -> Path:
    return Path("data/cache") / benchmark


def corpus_file(benchmark: str) -> Path:
    return Path("data/corpus") / f"{benchmark}.parquet"


def output_dir(stage: str, benchmark: str | None = None) -> Path:
    return Path("outputs") / stage / (benchmark or "")


def metrics_file(stage: str, benchmark: str | None = None) -> Path:
    return Path("metrics") / (f"{stage}/{benchmark}.json" if benchmark else f"{stage}.json")


def results_file(stage: str, benchmark: str | None = None) -> Path:
    """All metrics of a training or a test, beside what it made; :func:`metrics_file` has the headline."""
    return output_dir(stage, benchmark) / "metrics.json"


def record_file(stage: str, benchmark: str | None = None) -> Path:
    """The values of everything that a stage depends on, as its outputs were computed with them."""
    return Path("outputs/records") / (f"{stage}/{benchmark}.json" if benchmark else f"{stage}.json")


def work_dir(stage: str, benchmark: str | None, fingerprint: str) -> Path:
    """Unfinished work of one stage under one set of parameters; another set never sees it."""
    return WORK / stage / (benchmark or "all") / fingerprint


def saved_dir(stage: str, benchmark: str | None, name: str) -> Path:
    """Unfinished work that any later start takes up by its name: checkpoints of a training, shards of a cache.

    EVEREST_WORK puts it elsewhere, for a checkout that is removed when its work is done.
    """
    return Path(os.environ.get("EVEREST_WORK") or WORK) / work_dir(stage, benchmark, name).relative_to(WORK)


def noted_file(stage: str) -> Path:
    """What a stage (`finetune-motion`) that runs is at, in one line; absent where it does not run."""
    return WORK / "progress" / stage


def checkpoint_dir(root: Path, step: int) -> Path:
    """The checkpoint of an optimizer step among those in `root`."""
    return root / f"step-{step:09d}"


def checkpoint_steps(root: Path) -> list[int]:
    """The steps that have a checkpoint with a manifest, ascending. Their hashes are not checked here."""
    named = [(_CHECKPOINT.fullmatch(path.name), path) for path in (root.iterdir() if root.is_dir() else ())]
    return sorted(int(name[1]) for name, path in named if name and (path / "manifest.json").is_file())


def fingerprint(values: Any) -> str:
    """12 hex digits of SHA-256 over a JSON-able value; equal for equal values, whatever the key order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
