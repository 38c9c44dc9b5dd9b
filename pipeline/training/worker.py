"""What every rank runs: `python -m pipeline.training.worker --work DIR`, with the job in DIR/job.json."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.training.rank import live

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.training.distributed import Ranks
    from pipeline.training.engine import Engine
    from pipeline.training.heartbeat import Pulse
    from pipeline.training.stopping import StopRequest
    from pipeline.training.tasks import TrainingTask


def main() -> int:
    """The exit code of this rank."""
    parser = argparse.ArgumentParser(
        description="One rank of a training; started by `everest pretrain` and `finetune`."
    )
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))

    def body(ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
        train(job, work, ranks, pulse, stop)

    return live(work, body, job["params"]["compute"]["device"])


def train(job: dict[str, Any], work: Path, ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
    """Build the job's task, train it, and leave model, history and metrics in `work/final`."""
    import torch

    from pipeline.efficiency import EnergyMeter, profiled
    from pipeline.params import check_params
    from pipeline.tracking.spool import Spool
    from pipeline.training import tasks
    from pipeline.training.engine import Engine
    from pipeline.training.journal import Journal, NoSink
    from pipeline.training.progress import Progress, wanted

    began = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    params = check_params(job["params"], str(work / "job.json"))
    task = tasks.build(job["stage"], job["benchmark"], params, ranks)
    sink = Spool(Path(job["spool"])) if ranks.main else NoSink()
    steps = task.settings.epochs * task.loader.steps_per_epoch
    engine = Engine(
        task,
        task.settings,
        ranks,
        work,
        journal=Journal(work / "history.csv" if ranks.main else None, sink, every=max(1, steps // 1000)),
        pulse=pulse,
        stop=stop,
        progress=Progress(task.label, ranks.main and wanted()),
    )
    energy = EnergyMeter(ranks.device)
    with profiled(_profile_folder(work, ranks), ranks.device):
        engine.run()
    metrics = measured(engine, task, ranks, energy.read(), time.perf_counter() - began, params)
    tensors = engine.result()
    if ranks.main:
        _leave_result(work, job, task, tensors, metrics)
    ranks.barrier()


def measured(
    engine: Engine, task: TrainingTask, ranks: Ranks, energy_wh: float | None, seconds: float, params: Params
) -> dict[str, float]:
    """The run's metrics, gathered from all ranks."""
    from pipeline.efficiency import mfu, peak_flops, peak_memory_gib

    spent = engine.spent
    everyone = ranks.gather(
        (spent.clips, peak_memory_gib(ranks.device), spent.loader / max(spent.train, 1e-9), energy_wh,
         peak_flops(ranks.device, engine.settings.precision))
    )  # fmt: skip
    clips, memory, waiting, energies, peaks = zip(*everyone, strict=True)
    rate = sum(clips) / max(spent.train, 1e-9)
    found = {
        "train/loss": engine.last_loss,
        "train/steps": float(engine.step),
        "train/nonfinite_steps": float(engine.nonfinite),
        **engine.journal.final_scores(),
        "efficiency/gmacs_per_clip": task.cost.multiply_adds / 1e9,
        "efficiency/tokens_per_clip": float(task.cost.encoder_tokens),
        "efficiency/peak_memory_gib": max(memory),
        "efficiency/clips_per_second": rate,
        "efficiency/tokens_per_second": rate * task.cost.encoder_tokens,
        "efficiency/loader_wait_fraction": max(waiting),
        "efficiency/step_seconds": spent.train / max(spent.steps, 1),
        "efficiency/checkpoint_wait_fraction": spent.save / max(spent.train + spent.save, 1e-9),
        "efficiency/train_seconds": spent.train,
        "efficiency/validate_seconds": spent.validate,
        "efficiency/wall_seconds": seconds,
        "efficiency/world_size": float(ranks.world),
    }
    if all(peak is not None for peak in peaks):
        found["efficiency/mfu"] = mfu(task.cost.multiply_adds / 1e9, rate, sum(peaks), task.passes)
    if all(energy is not None for energy in energies):
        # RAPL counts a whole package for every rank of a machine; NVML counts each GPU for its own rank.
        found["efficiency/energy_wh"] = sum(energies) if ranks.device.type == "cuda" else max(energies)
    return {name: value for name, value in found.items() if value == value}


def _leave_result(
    work: Path, job: dict[str, Any], task: TrainingTask, tensors: dict[str, Any], metrics: dict[str, float]
) -> None:
    from pipeline.training import status

    building = work / "final.tmp"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    task.export(tensors, building)
    shutil.copyfile(work / "history.csv", building / "history.csv")
    status.write(building / "metrics.json", metrics)
    shutil.rmtree(work / "final", ignore_errors=True)
    building.rename(work / "final")


def _profile_folder(work: Path, ranks: Ranks) -> Path | None:
    """EVEREST_PROFILE=1 asks for a trace of the whole run; meant for short ones."""
    import os

    return work / "profile" / f"rank-{ranks.rank}" if os.environ.get("EVEREST_PROFILE") else None


if __name__ == "__main__":
    raise SystemExit(main())
