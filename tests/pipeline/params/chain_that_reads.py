"""Every stage of the chain, once in this process: `python chain_that_reads.py LOGS cache|videos`, see test_declared.py.

`sitecustomize` in `reads/` notes what this process and its ranks read; each stage's notes come to LOGS/<stage>.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import sitecustomize
import small_benchmark

from pipeline import layout
from pipeline.data import manifest
from pipeline.params import Params, check_params

LOGS, SOURCE = Path(sys.argv[1]).resolve(), sys.argv[2]
RECORDER = sitecustomize.Recorder(sitecustomize.Log(LOGS))
SHORTEST: dict[str, Any] = {
    "pretrain__epochs": 1,
    "pretrain__warmup_epochs": 0.5,
    "finetune__epochs": 1,
    "finetune__warmup_epochs": 0.5,
    "finetune__validate_split": "test",
    "finetune__validate_every_epochs": 1,
    "evaluate__bootstrap": 100,
    "evaluate__segments": 1,
    "compute__ranks": 1,
}


def params(source: str, **overrides: Any) -> Params:
    """The small benchmark beside one that no stage of it may read."""
    raw = small_benchmark.params(**(SHORTEST | {"clip__source": source} | overrides)).model_dump(mode="json")
    raw["benchmarks"]["other"] = raw["benchmarks"]["small"]
    return check_params(raw)


def run(stage: str, benchmark: str | None, values: Params) -> None:
    """One stage, noted under its name, also by the processes that it starts."""
    folder = LOGS / stage
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["EVEREST_READS"] = str(folder)
    RECORDER.log = sitecustomize.Log(folder)
    importlib.import_module(f"pipeline.stages.{stage}").run(values, benchmark)
    RECORDER.log = sitecustomize.Log(LOGS)


def main() -> None:
    generated = {"train": 8, "val": 2, "test": 8}
    data = {f"benchmarks__small__data__source__{name}": count for name, count in generated.items()}
    mode = "cached" if SOURCE == "cache" else "online"
    values = params(SOURCE, **data, pretrain__frame_selection__mode=mode)
    for stage in ("download", "preprocess", "baseline", "corpus"):
        run(stage, "small", values)
    run("pretrain", None, values)
    for stage in ("finetune", "evaluate"):
        run(stage, "small", values)
    small = {"benchmarks": {"small": values.benchmarks["small"].model_dump()}}
    run("report", None, check_params(values.model_dump(mode="json") | small))
    assert manifest.load(layout.manifest_dir("small") / "manifest.parquet").num_rows == sum(generated.values())


if __name__ == "__main__":
    main()
