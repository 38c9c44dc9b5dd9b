"""One training as a stage sees it: lock, track, launch, publish.

The ranks find everything in `<work>/job.json`; they leave the finished model in `<work>/final`, from where it
is moved to its place in one rename.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline import layout, model_folder
from pipeline.distributed.launch import locked
from pipeline.distributed.nodes import this_node
from pipeline.distributed.start import devices, start
from pipeline.notices.alarms import alarms_told
from pipeline.params import SCRATCH, Params, flatten
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged, on_change
from pipeline.system.files import publish_folder, write_json
from pipeline.tracking import names, stage_run
from pipeline.tracking.headline import headline
from pipeline.training.worker import TrainingJob

log = logging.getLogger(__name__)

#: What every rank runs.
WORKER = "pipeline.training.worker"
#: Points in the history that `dvc plots` draws; the whole of it is in the output's history.csv.
PLOT_ROWS = 500
#: What training from scratch has spent on pre-training, so that it stands beside the others in a chart.
NO_PRETRAINING = {names.GMACS_PER_CLIP: 0.0, names.WALL_SECONDS: 0.0}


def train(
    stage: str, benchmark: str | None, params: Params, values: dict[str, Any], inputs: dict[str, str]
) -> dict[str, float]:
    """Run one training to the end and publish its model, history and metrics.

    Args:
        values: the stage's resolved parameters, as they are tracked.
        inputs: what identifies the data and the weights it starts from, by path. With all that the stage declares they
            name the work folder, so that a change of either starts afresh and an equal start continues.

    Returns:
        The metrics, as in the metrics file; {} on a node that only lends its ranks.
    """
    work = layout.saved_dir(stage, benchmark, work_key(stage, benchmark, params, inputs)).absolute()
    compute = params.compute
    node = this_node()
    if not node.main:
        with locked(work) as lock, devices(compute, stage, benchmark) as gpus:
            start(WORKER, [], compute, stage, work, [lock, *gpus])
        return {}
    tags = {
        "world_size": str(compute.ranks_of(stage) * compute.nodes * node.count),
        "device": compute.device,
        "everest.inputs": json.dumps(inputs),
    }
    with locked(work) as lock:
        trained = (work / "final" / "metrics.json").exists()
        waiting = nullcontext(()) if trained else devices(compute, stage, benchmark)
        with waiting as gpus, stage_run(stage, benchmark, flatten(values), work, tags) as run:
            began = time.time()
            TrainingJob(stage, benchmark, compute.device, params.model_dump(mode="json"), str(run.path)).write(work)
            if not trained:
                with alarms_told(work, stage):
                    start(WORKER, [], compute, stage, work, [lock, *gpus])
            check_unchanged()
            metrics: dict[str, float] = json.loads((work / "final" / "metrics.json").read_text(encoding="utf-8"))
            metrics[names.efficiency("stage_seconds")] = round(time.time() - began, 3)
            run.metrics(metrics)
            run.summary(names.of_experiment(stage, benchmark, metrics))
            if stage == "finetune" and values["finetune"]["init"] == SCRATCH:
                run.summary(names.of_experiment("pretrain", None, NO_PRETRAINING))
            digest = model_folder.sha256(work / "final")  # before the model in place gives way to a damaged one
            _publish(work, stage, benchmark, metrics)
            run.tags({"everest.weights_sha256": digest})
            run.artifact(layout.output_dir(stage, benchmark) / "history.csv")
            if (work / "trace").exists():
                run.artifact(work / "trace")
                log.warning("traces of this training are in %s, and with its run.", work / "trace")
            for picture in sorted((layout.output_dir(stage, benchmark) / "pictures").glob("*.png")):
                run.artifact(picture, "pictures")
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return metrics


def _publish(work: Path, stage: str, benchmark: str | None, metrics: dict[str, float]) -> None:
    final, place = work / "final", layout.output_dir(stage, benchmark)
    write_json(final / "metrics.json", metrics)
    thin_history(final / "history.csv", layout.metrics_file(stage, benchmark).with_suffix(".csv"))
    publish_folder(final, place)
    write_json(layout.metrics_file(stage, benchmark), headline(metrics))

    def take_back() -> None:
        layout.metrics_file(stage, benchmark).unlink()
        publish_folder(place, final)

    on_change(take_back)


def thin_history(source: Path, target: Path) -> None:
    """At most PLOT_ROWS training rows of a history, evenly, for plots that load quickly."""
    with source.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    every = max(1, -(-len(rows) // PLOT_ROWS))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("step", "loss", "lr"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[every - 1 :: every])
