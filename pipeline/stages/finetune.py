"""Fine-tuning on one benchmark: from our pre-training, from converted official weights, or from scratch."""

from __future__ import annotations

from pathlib import Path

from pipeline import layout, model_folder
from pipeline.data import manifest
from pipeline.errors import InputError
from pipeline.params import SCRATCH, Params
from pipeline.system.files import sha256_of
from pipeline.training import job


def run(params: Params, benchmark: str | None) -> dict[str, float]:
    """Fine-tune, or continue where a stopped run with the same parameters, data and weights left off.

    Raises:
        InputError: no benchmark, or the weights or the cache are missing.
        Interrupted: stopped by a signal; the state was saved.
    """
    if benchmark is None:
        raise InputError(f"finetune needs a benchmark. Cure: `everest finetune {next(iter(params.benchmarks))}`.")
    stage = params.finetune_of(benchmark)
    inputs = {}
    for path in (
        layout.manifest_dir(benchmark) / "manifest.parquet",
        layout.cache_dir(benchmark) / "cache.json",
    ):
        if not path.exists():
            raise InputError(f"{path} does not exist. Cure: `dvc repro preprocess@{benchmark}`.")
        inputs[str(path)] = sha256_of(path)
    manifest.class_names(layout.manifest_dir(benchmark), params.benchmark(benchmark).data.classes)
    names = layout.manifest_dir(benchmark) / manifest.CLASSES
    inputs[str(names)] = sha256_of(names)
    if stage.init != SCRATCH:
        weights = Path(stage.init) / "model.safetensors"
        if not weights.exists():
            raise InputError(
                f"finetune.init = {stage.init!r}: {weights} does not exist. Cure: pre-train first (`dvc repro "
                f"pretrain`), name a folder that `everest convert-checkpoint` wrote, or set it to {SCRATCH!r}."
            )
        inputs[str(weights)] = model_folder.sha256(weights.parent)
    values = {
        "seed": params.seed,
        "pretrain": {"size": params.pretrain.size},
        "clip": params.clip.model_dump(mode="json"),
        "finetune": stage.model_dump(mode="json"),
        "data": params.benchmark(benchmark).data.model_dump(mode="json", include={"classes", "frame_step", "split"}),
    }
    return job.train("finetune", benchmark, params, values, inputs)
