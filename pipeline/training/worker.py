"""What every rank runs: `python -m pipeline.training.worker --work DIR`, with the job in DIR/job.json."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.distributed.rank import live
from pipeline.monitor.record import FILE
from pipeline.system.files import atomic_folder, write_json
from pipeline.system.processes import PAUSE_AT, pause_step

if TYPE_CHECKING:
    import torch

    from pipeline.distributed.groups import Ranks
    from pipeline.distributed.heartbeat import Pulse
    from pipeline.monitor.monitor import Sink
    from pipeline.monitor.watch import Watcher
    from pipeline.params import Params
    from pipeline.system.processes import StopRequest
    from pipeline.training.journal import Progress
    from pipeline.training.tasks import TrainingTask


@dataclass(frozen=True)
class TrainingJob:
    """What the ranks are told of their training, in `<work>/job.json`.

    Attributes:
        device: `auto`, `cpu` or `cuda`: needed before the parameters are checked.
        params: params.yaml as the stage read it; the file may have been edited since.
        spool: the file that tracked values are appended to.
    """

    stage: str
    benchmark: str | None
    device: str
    params: dict[str, object]
    spool: str

    @classmethod
    def read(cls, work: Path) -> TrainingJob:
        return cls(**json.loads(_file(work).read_text(encoding="utf-8")))

    def write(self, work: Path) -> None:
        write_json(_file(work), asdict(self))


def _file(work: Path) -> Path:
    return work / "job.json"


def main() -> int:
    """The exit code of this rank."""
    parser = argparse.ArgumentParser(
        description="One rank of a training; started by `everest pretrain` and `finetune`."
    )
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    job = TrainingJob.read(work)

    def body(ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
        train(job, work, ranks, pulse, stop)

    return live(work, body, job.device)


def train(job: TrainingJob, work: Path, ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
    """Build the job's task, train it, and leave model, history and metrics in `work/final`."""
    import torch

    from pipeline.efficiency.meters import device_name
    from pipeline.params import check_params
    from pipeline.tracking.spool import Spool
    from pipeline.training import tasks
    from pipeline.training.allocator import keep_freed_memory
    from pipeline.training.determinism import deterministic_kernels
    from pipeline.training.engine import Engine
    from pipeline.training.journal import Journal, NoSink, Progress
    from pipeline.training.measured import ProcessMeter, measured, sentence
    from pipeline.training.timing import Trace, trace_steps

    began = time.perf_counter()
    if ranks.device.type == "cpu":
        keep_freed_memory()
    torch.set_float32_matmul_precision("high")
    params = check_params(job.params, str(_file(work)))
    task = tasks.build(job.stage, job.benchmark, params, ranks)
    sink = Spool(Path(job.spool)) if ranks.main else NoSink()
    progress = Progress(task.label, ranks.main)
    if isinstance(sink, Spool):
        sink.tags({"device": device_name(ranks.device)})
    steps = task.settings.epochs * task.loader.steps_per_epoch
    pause = _pause_step(steps)

    def after_step() -> None:
        trace.step()
        if pause is not None and engine.step + 1 >= pause:
            stop.pause()  # the next step is the last one

    trace = Trace(work / "trace" / f"rank-{ranks.rank}", trace_steps(), ranks.device)
    engine = Engine(
        task,
        task.settings,
        ranks,
        work,
        journal=Journal(work / "history.csv" if ranks.main else None, sink, max(1, steps // 1000), task.several),
        pulse=pulse,
        stop=stop,
        progress=progress,
        after_step=after_step,
        monitor=_monitor(task, params, ranks, work, sink, progress, pulse),
        taken=ProcessMeter(began, ranks.device).taken,
    )
    with trace, deterministic_kernels(params.compute.deterministic):
        engine.run()
    metrics = measured(engine, task, ranks)
    tensors = engine.result()
    metrics |= engine.journal.scores  # those of what is published, which may be an earlier state
    progress.say(sentence(task.label, metrics))
    if ranks.main:
        _leave_result(work, task, tensors, metrics)
    ranks.barrier()


def _pause_step(steps: int) -> int | None:
    """The step after which a comparison's turn ends, of EVEREST_PAUSE_AT as a share of all; None where none does."""
    share = os.environ.get(PAUSE_AT)
    return pause_step(float(share), steps) if share else None


def _monitor(
    task: TrainingTask, params: Params, ranks: Ranks, work: Path, sink: Sink, progress: Progress, pulse: Pulse
) -> Watcher:
    """The monitor of a pre-training; a fine-tuning has its validation."""
    from pipeline.monitor.build import pretraining_monitor
    from pipeline.monitor.monitor import Training
    from pipeline.monitor.watch import NoWatcher
    from pipeline.training.settings import HALF
    from pipeline.training.tasks import PretrainTask

    if not isinstance(task, PretrainTask):
        return NoWatcher()
    stage, per_epoch = task.stage, task.loader.steps_per_epoch
    clips = stage.batch * stage.repeated_augmentation
    gmacs = task.passes * clips * task.cost.multiply_adds / 1e9
    return pretraining_monitor(
        params,
        Training(stage.epochs * per_epoch, round(stage.warmup_epochs * per_epoch), gmacs),
        per_epoch,
        task.dataset,
        (task.name, task.arguments),
        HALF.get(stage.precision),
        ranks,
        work,
        sink=sink,
        remark=progress.remark,
        pulse=pulse,
    )


def _leave_result(work: Path, task: TrainingTask, tensors: dict[str, torch.Tensor], metrics: dict[str, float]) -> None:
    with atomic_folder(work / "final") as building:
        task.export(tensors, building)
        shutil.copyfile(work / "history.csv", building / "history.csv")
        if (work / FILE).exists():
            shutil.copyfile(work / FILE, building / FILE)
        write_json(building / "metrics.json", metrics)


if __name__ == "__main__":
    raise SystemExit(main())
