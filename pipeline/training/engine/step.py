"""One optimizer step over all ranks, and what it leaves to be read when the device is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.distributed.groups import Ranks, parallel, reduce_gradients, whole
from pipeline.distributed.heartbeat import Pulse
from pipeline.system.processes import StopRequest
from pipeline.training.engine.interface import Batch, Task
from pipeline.training.optim import Average, Cosine, LossScaler, adamw, set_lr, step_unless
from pipeline.training.settings import HALF, Settings
from pipeline.training.timing import Clock, Marks


@dataclass
class Outcome:
    """What all ranks agreed on about one step, read from the device; `scale` is what its loss was scaled by."""

    step: int
    bad_ranks: float
    stop: float
    loss: float
    grad_norm: float
    scale: float
    indices: list[torch.Tensor]


@dataclass
class Pending:
    """One step that the device may still be working on: what there will be to read when it is done."""

    step: int
    report: torch.Tensor
    event: torch.cuda.Event | None
    indices: list[torch.Tensor]
    marks: Marks

    def outcome(self, world: int) -> Outcome:
        """Wait for the device and read what the step came to."""
        if self.event is not None:
            self.event.synchronize()
        bad, stop, loss, norm, scale = self.report.tolist()
        return Outcome(self.step, bad, stop, loss / world, norm, scale, self.indices)

    @property
    def clips(self) -> int:
        return sum(len(index_B) for index_B in self.indices)


class TrainStep:
    """The step and what it changes: parameters, AdamW's moments, the loss scale, the average."""

    def __init__(
        self, task: Task, settings: Settings, ranks: Ranks, *, pulse: Pulse, stop: StopRequest, clock: Clock
    ) -> None:
        self.task, self.settings, self.ranks = task, settings, ranks
        self.pulse, self.stop, self.clock = pulse, stop, clock
        self.model = task.model.to(ranks.device)
        self.half = HALF.get(settings.precision)
        self.parallel = parallel(self.model, ranks, settings.data_parallel, self.half)
        self.optimizer = adamw(task.groups(), settings.betas, settings.eps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # A row of blocks that is replayed writes its gradients over those of the micro-batch before, which a `grad` of
        # the optimizer step's own survives. Without accumulation none is left when the next pass begins.
        self.keep_gradients = settings.graphs and settings.accumulate > 1
        if self.keep_gradients:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)
        self.scaler = LossScaler(settings.precision == "fp16", ranks.device)
        self.average = Average(self.model, settings.ema_decay)
        self.schedule: Callable[[int], float] = Cosine.of(
            settings.base_lr,
            settings.min_lr,
            settings.global_batch,
            settings.warmup_epochs,
            settings.epochs,
            task.loader.steps_per_epoch,
        )
        self._stop_flag = torch.zeros((), device=ranks.device)

    def __call__(self, batches: Iterator[Batch], epoch: int, step: int) -> Pending:
        """Take the optimizer step `step`, counted from 0. Nothing here waits for the device."""
        accumulate = self.settings.accumulate
        marks = Marks(self.clock)

        def begin(part: str, micro: int = 0) -> None:
            self.pulse.beat(part, step, micro)
            marks.begin(part)

        set_lr(self.optimizer, self.schedule(step))
        total, indices = torch.zeros((), device=self.ranks.device), []
        for micro in range(accumulate):
            begin("loading", micro)
            batch = next(batches)
            indices.append(batch.index_B)
            begin("forward", micro)
            with reduce_gradients(self.parallel, micro + 1 == accumulate):
                with self.autocast():
                    loss = self.task.loss(self.parallel, batch, epoch) / accumulate
                begin("backward", micro)
                self.scaler.scaled(loss).backward()
            total += loss.detach()
        begin("updating")
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.scaler.unscale(gradients)
        norm = self._clip(gradients)
        if self.stop.signal:
            self._stop_flag.fill_(1.0)
        begin("exchange")
        report = self.ranks.sum_(torch.stack([(~total.isfinite()).float(), self._stop_flag, total]))
        begin("updating")
        # After the exchange every rank holds the same gradients and the same report: all refuse, or none.
        refused = (report[0] > 0) | ~norm.isfinite()
        step_unless(self.optimizer, refused)
        report = torch.cat([report, torch.stack([norm, self.scaler.scale])])
        self.scaler.update(refused)
        self.average.update(refused)
        self.optimizer.zero_grad(set_to_none=not self.keep_gradients)
        marks.begin("updating")  # only ends the step
        return _pending(step, report, indices, marks)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of forward passes."""
        if self.half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=self.half)

    def _clip(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """The global gradient norm before clipping; clips where asked."""
        norm = whole(nn.utils.get_total_norm(gradients))
        if self.settings.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_grad, norm)
        return norm


def _pending(step: int, report: torch.Tensor, indices: list[torch.Tensor], marks: Marks) -> Pending:
    """The step's report, on its way from a GPU to pinned memory."""
    event = None
    if report.device.type == "cuda":
        host = torch.empty(report.shape, dtype=report.dtype, pin_memory=True)
        host.copy_(report, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        report = host
    return Pending(step, report, event, indices, marks)
