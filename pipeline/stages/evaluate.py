"""Stage `evaluate`: test a fine-tuned model on a benchmark with several views a video.

Reads data/cache/<bench>, its manifest and outputs/finetune/<bench>; writes outputs/evaluate/<bench>/
{predictions.parquet, confusion.csv, per_class.csv, budgets.json, temperature.json, pictures/, clips/} and
metrics/evaluate/<bench>.{json,csv}. Videos with several classes each have no confusion.csv.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.distributed.nodes import this_node
from pipeline.distributed.start import devices
from pipeline.errors import InputError
from pipeline.params import Params, flatten
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.system.csv_files import Writer
from pipeline.system.files import sha256_of
from pipeline.tracking import names

if TYPE_CHECKING:
    from models.info import ModelInfo
    from pipeline.evaluation.benchmark import Outcome, TestSet
    from pipeline.evaluation.budgets import NoSweep, Sweep
    from pipeline.evaluation.inference import Answer
    from pipeline.evaluation.temperature import Temperature

log = logging.getLogger(__name__)

#: Budgets, temperature and clips take tens of seconds, and no page of a comparison or a repetition shows them.
IN_A_SERIES = "left out in the trainings of a comparison or a repetition"
TESTED_OTHERWISE = "evaluate.strategy tests the weights with another token strategy than they were trained with"


def run(params: Params, benchmark: str | None) -> dict[str, float]:
    """Evaluate one benchmark; returns its metrics (`eval/*`, `efficiency/*`).

    Raises:
        InputError: no such model, or one that does not fit.
        EverestError: too many test videos cannot be read.
    """
    if benchmark is None:
        raise InputError("evaluate needs a benchmark. Cure: `everest evaluate NAME`.")
    if this_node().count > 1:
        raise InputError(
            "PET_NNODES: evaluate publishes from one node. Cure: start it on one without PET_NNODES, or with "
            "compute.launcher: slurm."
        )
    with devices(params.compute, "evaluate", benchmark):  # before torch looks for them
        return _run(params, benchmark)


def _run(params: Params, benchmark: str) -> dict[str, float]:
    from pipeline import model_folder
    from pipeline.data.clips.dataset import open_source
    from pipeline.distributed.groups import choose_device
    from pipeline.efficiency.meters import device_name
    from pipeline.evaluation.benchmark import TestSet, as_tested, check_model, scored, within_budget
    from pipeline.inference import models
    from pipeline.tracking import stage_run
    from pipeline.tracking.context import registered_name

    how = params.evaluate_of(benchmark)
    info = check_model(layout.output_dir("finetune", benchmark), params, benchmark)
    tests = TestSet.load(benchmark, how.split)
    inputs = _inputs(benchmark)
    work = layout.work_dir("evaluate", benchmark, work_key("evaluate", benchmark, params, info.as_dict(), inputs))
    flat = {"seed": params.seed, **flatten(params.clip, "clip."), **flatten(how, "evaluate.")}
    ranks = _ranks(params)
    tags = {
        "world_size": ranks,
        "device": device_name(choose_device(params.compute.device)),
        "everest.inputs": json.dumps(inputs),
    }
    facts = _model_facts(as_tested(info, how.strategy))
    with stage_run("evaluate", benchmark, flat | facts, work, tags) as tracked:
        began = time.perf_counter()
        outcome = _outcome(params, benchmark, tests, work, ranks)
        within_budget(outcome.answers, tests, how.failure_budget, benchmark)
        metrics: dict[str, float] = scored(outcome, tests, how.bootstrap, params.seed) | outcome.cost
        metrics[names.PEAK_MEMORY_GIB] = outcome.peak_memory_gib
        metrics[names.CLIPS_PER_SECOND] = outcome.clips / outcome.seconds
        metrics[names.WALL_SECONDS] = time.perf_counter() - began
        if outcome.energy_wh is not None:
            metrics[names.ENERGY_WH] = outcome.energy_wh
        swept = _sweep(params, benchmark, tests, outcome.answers, info)
        fitted = _temperature(params, benchmark)
        folder = _write(params, outcome.answers, tests, benchmark, metrics, list(info.classes or ()), swept, fitted)
        tracked.metrics(metrics)
        tracked.tags({"everest.predictions_sha256": sha256_of(folder / "predictions.parquet")})
        tracked.summary(names.of_experiment("evaluate", benchmark, metrics))
        if tests.truth_VC is None:
            tracked.artifact(folder / "confusion.csv")
        tracked.artifact(folder / "per_class.csv")
        tracked.artifact(folder / "pictures", "pictures")
        if how.strategy is not None:
            # What the registry serves answers as it was trained; it has no score of that here.
            log.warning("%s: the model is not registered: %s.", benchmark, TESTED_OTHERWISE)
            return metrics
        choice = _choice(info.notes, benchmark, how.split)
        tracked.tags({f"everest.{name}": value for name, value in choice.items()})
        tested = info.tested_with(
            how.segments, how.crops, open_source(params, benchmark).grid, {"recipe": params.recipe, **fitted.note()}
        )
        registered = models.prepare(layout.output_dir("finetune", benchmark), work / "registered", tested)
        tracked.model(
            registered,
            registered_name(params.recipe, benchmark),
            {
                **choice,
                **(
                    {"eval.map": metrics[names.EVAL_MAP]}
                    if info.multi_label
                    else {"eval.top1": metrics[names.EVAL_TOP1]}
                ),
                "benchmark": benchmark,
                "sha256": model_folder.sha256(registered),
                "strategy": info.kwargs["strategy"],
            },
            ("candidate", "best") if "score" in choice else ("candidate",),
        )
    return metrics


def _choice(info: Mapping[str, object], benchmark: str, split: str) -> dict[str, str | float]:
    """Tags that say what the alias `best` may be chosen by, or why it does not move, and what is optimistic."""
    from pipeline.evaluation.choice import chosen_by_reported_split, score_to_choose_by

    score, reason = score_to_choose_by(info, benchmark, split)
    if score is None:
        log.warning("%s: the alias `best` does not move: %s.", benchmark, reason)
    tags: dict[str, str | float] = {"not_best": reason} if score is None else {"score": score}
    optimistic = chosen_by_reported_split(info, split)
    if optimistic:
        log.warning("%s: the score is optimistic: the same %s videos chose %s.", benchmark, split, optimistic)
        tags["chosen_by_reported_split"] = optimistic
    return tags


def _inputs(benchmark: str) -> dict[str, str]:
    """What identifies the model, the videos and their frames: SHA-256 by path.

    Raises:
        InputError: one of them does not exist, or the weights are not those that their description records.
    """
    from pipeline import model_folder

    model = layout.output_dir("finetune", benchmark)
    weights, table = model / "model.safetensors", layout.manifest_dir(benchmark) / "manifest.parquet"
    cache = layout.cache_dir(benchmark) / "cache.json"
    for path, stage in ((weights, "finetune"), (table, "download"), (cache, "preprocess")):
        if not path.exists():
            raise InputError(f"{path} does not exist. Cure: `dvc repro {stage}@{benchmark}`.")
    return {str(weights): model_folder.sha256(model), str(table): sha256_of(table), str(cache): sha256_of(cache)}


def _ranks(params: Params) -> int:
    """Several processes pay only where each has a GPU of its own: on a CPU one process uses all cores."""
    ranks = params.compute.ranks_of("evaluate")
    if params.compute.launcher == "slurm":
        return ranks * params.compute.nodes
    if ranks == 1 or params.compute.device == "cpu":
        return 1
    import torch

    return ranks if torch.cuda.is_available() else 1


def _outcome(params: Params, benchmark: str, tests: TestSet, work: Path, ranks: int) -> Outcome:
    from pipeline.evaluation.benchmark import evaluate
    from pipeline.evaluation.worker import launched
    from pipeline.system.progress import Bar

    if ranks > 1 or params.compute.launcher == "slurm":
        return launched(params, benchmark, work)
    progress = Bar(f"evaluate {benchmark}")
    return evaluate(params, benchmark, tests, layout.output_dir("finetune", benchmark), progress=progress)


def _sweep(params: Params, benchmark: str, tests: TestSet, answers: list[Answer], info: ModelInfo) -> Sweep | NoSweep:
    """The same model at other token budgets, on one device: its sample is small."""
    from pipeline.distributed.groups import choose_device
    from pipeline.evaluation.budgets import NoSweep, sweep
    from pipeline.system.progress import Bar

    if reason := _only_scored(params, benchmark):
        return NoSweep(reason)
    device = choose_device(params.compute.device)
    folder = layout.output_dir("finetune", benchmark)
    return sweep(params, benchmark, tests, answers, folder, info, device, Bar(f"budgets {benchmark}"))


def _temperature(params: Params, benchmark: str) -> Temperature:
    """What calibrates the model, for its description and the report."""
    from pipeline.distributed.groups import choose_device
    from pipeline.evaluation.temperature import Temperature, temperature
    from pipeline.system.progress import Bar

    if reason := _only_scored(params, benchmark):
        return Temperature(reason=reason)
    device = choose_device(params.compute.device)
    folder = layout.output_dir("finetune", benchmark)
    return temperature(params, benchmark, folder, device, Bar(f"calibrate {benchmark}"))


def _only_scored(params: Params, benchmark: str) -> str:
    """Why budgets and temperature are left out; "" where they are not."""
    from pipeline.tracking.context import series

    if series():
        return IN_A_SERIES
    return TESTED_OTHERWISE if params.evaluate_of(benchmark).strategy else ""


def _model_facts(info: ModelInfo) -> dict[str, object]:
    kwargs = info.kwargs
    facts: dict[str, object] = {
        f"model.{name}": kwargs.get(name) for name in ("strategy", "keep_ratio", "head") if name in kwargs
    }
    return {"model.architecture": info.architecture, **facts}


def _write(
    params: Params,
    answers: list[Answer],
    tests: TestSet,
    benchmark: str,
    metrics: dict[str, float],
    classes: list[str],
    swept: Sweep | NoSweep,
    fitted: Temperature,
) -> Path:
    """Write all outputs beside their final places, then move them there; returns their folder."""
    import numpy as np

    from pipeline.evaluation import budgets, files, temperature
    from pipeline.evaluation.benchmark import draw_examples
    from pipeline.evaluation.clips import draw_clips
    from pipeline.system.files import atomic_folder, atomic_path, write_text
    from pipeline.tracking.context import series
    from pipeline.tracking.headline import headline

    final = layout.output_dir("evaluate", benchmark)
    with atomic_folder(final) as building:
        files.write_predictions(building / "predictions.parquet", tests, answers)
        if tests.truth_VC is None:
            files.write_confusion(building / "confusion.csv", building / "per_class.csv", tests, answers, classes)
        else:
            files.write_precision(building / "per_class.csv", tests, answers, classes)
        draw_examples(params, benchmark, tests, answers, building / "pictures")
        if not series():
            draw_clips(params, benchmark, tests, answers, building / "clips")
        budgets.write_sweep(building / budgets.FILE, swept)
        temperature.write_temperature(building / temperature.FILE, fitted)
        write_text(building / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        check_unchanged()
    write_text(layout.metrics_file("evaluate", benchmark), json.dumps(headline(metrics), indent=1) + "\n")
    plot = layout.metrics_file("evaluate", benchmark).with_suffix(".csv")
    with atomic_path(plot) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(["actual", "predicted"])
        # Of several classes a row for each; beside it the most probable one.
        sets = [[label] for label in tests.labels]
        if tests.truth_VC is not None:
            sets = [np.flatnonzero(truth_C).tolist() for truth_C in tests.truth_VC]
        for labels, answer in zip(sets, answers, strict=True):
            if answer.probability is not None:
                writer.rows([classes[label], classes[int(answer.probability.argmax())]] for label in labels)
    return final
