"""A short training with a rate that grows exponentially, in a folder of its own that is removed."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.distributed.groups import Ranks, choose_device
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import InputError
from pipeline.finder.rule import has_diverged
from pipeline.params import Params
from pipeline.system.processes import StopRequest
from pipeline.system.progress import Line
from pipeline.training import tasks
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.optim import scaled_lr


@dataclass(frozen=True)
class Exponential:
    """The rate of a step, counted from 0: from `low` to `high` in `steps` steps."""

    low: float
    high: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / max(self.steps - 1, 1))


def sweep(
    params: Params,
    stage: Literal["pretrain", "finetune"],
    benchmark: str | None,
    steps: int,
    low: float,
    high: float,
) -> tuple[list[float], list[float]]:
    """Base learning rates and the loss of the step at each, until it diverges.

    One process does what all ranks of the training would, in micro-batches of the same size; the loss is that of the
    whole batch. Weights, order of clips and masks are those of the training's own beginning.

    Args:
        low, high: base learning rates, at a batch of 256 as in params.yaml.
    """
    stage_params = params.pretrain if stage == "pretrain" else params.finetune_of(str(benchmark))
    world = params.compute.ranks_of(stage) * params.compute.nodes
    accumulate = stage_params.accumulate * world
    if stage_params.batch % accumulate:
        raise InputError(
            f"{stage}.batch = {stage_params.batch} does not divide among {world} ranks x "
            f"{stage_params.accumulate} accumulation steps. Cure: another compute.ranks."
        )
    alone = {"ranks": 1, "gpus": None, "launcher": "local", "data_parallel": "ddp"}
    # Not checked again: micro-batches so small need not divide the batch of another stage or benchmark.
    group = getattr(params, stage).model_copy(update={"accumulate": accumulate})
    params = params.model_copy(update={stage: group, "compute": params.compute.model_copy(update=alone)})
    ranks = Ranks(0, 1, 0, choose_device(params.compute.device))
    task = tasks.build(stage, benchmark, params, ranks)
    # A bad step ends the sweep; there is nothing to average, save or stop for.
    settings = dataclasses.replace(task.settings, on_nonfinite="skip", max_nonfinite=steps, ema_decay=None)
    with tempfile.TemporaryDirectory(prefix="everest-lr-") as folder:
        engine = Engine(
            task, settings, ranks, Path(folder), journal=Journal(None, NoSink()), pulse=Pulse(None),
            stop=StopRequest(), progress=Progress("", False),
        )  # fmt: skip
        base = Exponential(low, high, steps)
        engine.train_step.schedule = Exponential(
            scaled_lr(low, stage_params.batch), scaled_lr(high, stage_params.batch), steps
        )
        rates, losses = _steps(engine, task, base, steps)
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()
    return rates, losses


def _steps(engine: Engine, task: tasks.TrainingTask, base: Exponential, steps: int) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    losses: list[float] = []
    line, epoch = Line(), 0
    engine.model.train()
    while len(losses) < steps:
        batches = iter(task.loader.epoch(epoch))
        for _ in range(min(task.loader.steps_per_epoch, steps - len(losses))):
            rates.append(base(engine.step))
            bad = engine.nonfinite
            engine.advance(batches, epoch, at_once=True)
            losses.append(math.nan if engine.nonfinite > bad else engine.last_loss)
            line.show(f"step {len(losses)}/{steps}  rate {rates[-1]:.2g}  loss {losses[-1]:.4f}")
            if has_diverged(losses):
                line.close()
                return rates, losses
        epoch += 1
    line.close()
    return rates, losses
