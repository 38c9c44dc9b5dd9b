"""The training loop: one engine for pre-training, fine-tuning and probing, on one process or many.

The state of a run is one number, the optimizer step, and what a checkpoint holds; epoch, position inside it
and learning rate follow from the step. The step itself is :meth:`Engine._train_step`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from pipeline.distributed.groups import Ranks, forget_gathered, parallel, reduce_gradients, whole
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import EverestError, Interrupted
from pipeline.system.files import write_json
from pipeline.system.processes import StopRequest
from pipeline.tracking import names
from pipeline.training import snapshot
from pipeline.training.checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint
from pipeline.training.journal import Journal, Progress
from pipeline.training.optim import Average, Cosine, LossScaler, ParameterGroup, adamw, set_lr, step_unless
from pipeline.training.timing import Clock, Marks, clock_of

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Batch(Protocol):
    """What the loader yields, as far as the engine looks: the clips' global rows, for the records of a bad step."""

    index_B: torch.Tensor


class Loader(Protocol):
    """Batches as a pure function of (epoch, micro-step); see pipeline.data.clips.loader."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]: ...


class Task(Protocol):
    """What is trained: a model, its batches, its loss."""

    model: nn.Module

    @property
    def loader(self) -> Loader: ...

    def groups(self) -> list[ParameterGroup]:
        """Parameter groups for AdamW, after the model was sharded."""

    def loss(self, model: nn.Module, batch: Any, epoch: int) -> torch.Tensor:
        """The mean loss of one micro-batch, a scalar on the device."""

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        """Scores after an epoch, the same on all ranks; {} where there is nothing to do.

        `alive` is called for each batch, so that a long validation is not taken for a stall.
        """


@dataclass(frozen=True)
class Settings:
    """The numbers of params.yaml that the engine itself obeys."""

    seed: int
    epochs: int
    global_batch: int
    accumulate: int
    base_lr: float
    min_lr: float
    warmup_epochs: float
    betas: tuple[float, float]
    eps: float
    clip_grad: float | None
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: float | None
    checkpoint_every_steps: int
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: int
    select: Literal["last", "best"] = "last"
    patience: int | None = None
    data_parallel: Literal["ddp", "fsdp"] = "ddp"


@dataclass
class Spent:
    """Where the time of this process went, in seconds, and how much was done; checkpoints carry it on.

    The first step after each start is left out of all but `first`: it compiles, allocates and chooses kernels. `train`
    is the time of the other `steps` on `clips`; its parts (see pipeline.training.timing) are below it.
    """

    first: float = 0.0
    train: float = 0.0
    loader: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    communication: float = 0.0
    optimizer: float = 0.0
    validate: float = 0.0
    save: float = 0.0
    steps: int = 0
    clips: int = 0

    def as_dict(self) -> dict[str, float]:
        return dict(vars(self))


@dataclass
class Watched:
    """What the validations so far amount to; checkpoints carry it on.

    Attributes:
        step: after which the last validation was.
        best: the highest top-1 score; None before the first.
        waited: validations since it was reached.
        scores: of the last one.
    """

    step: int = 0
    best: float | None = None
    waited: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def note(self, scores: dict[str, float]) -> None:
        """The scores of one more validation, the same on all ranks."""
        self.scores = scores
        if self.best is None or scores[names.VAL_TOP1] > self.best:
            self.best, self.waited = scores[names.VAL_TOP1], 0
        else:
            self.waited += 1


@dataclass
class Posted:
    """One step that the device may still be working on: what there will be to read when it is done."""

    step: int
    report: torch.Tensor
    event: torch.cuda.Event | None
    indices: list[torch.Tensor]
    marks: Marks
    seconds: float


@dataclass
class Verdict:
    """What all ranks agreed on about one step, read from the device."""

    step: int
    bad_ranks: float
    stop: float
    loss: float
    grad_norm: float
    indices: list[torch.Tensor] = field(default_factory=list)


class NonFinite(EverestError):
    """A loss or gradient was NaN or infinite; no update was made from it."""


class _Rewound(Exception):
    """The run went back to a checkpoint: the epoch's iterator is void."""


class Engine:
    """Trains `task` to the end of `settings.epochs`, from the newest intact checkpoint in `work` if there is one."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        ranks: Ranks,
        work: Path,
        *,
        journal: Journal,
        pulse: Pulse,
        stop: StopRequest,
        progress: Progress,
        clock: Clock | None = None,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.task, self.settings, self.ranks, self.work = task, settings, ranks, work
        self.journal, self.pulse, self.stop, self.progress = journal, pulse, stop, progress
        self.clock, self.after_step = clock or clock_of(ranks.device), after_step
        snapshot.seed_all(settings.seed, ranks)
        self.model = task.model.to(ranks.device)
        half = HALF.get(settings.precision)
        wrapped = parallel(self.model, ranks, settings.data_parallel, half)
        self.parallel = wrapped
        self.optimizer = adamw(task.groups(), settings.betas, settings.eps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = LossScaler(settings.precision == "fp16", ranks.device)
        self.average = Average(self.model, settings.ema_decay)
        self.checkpoints = Checkpoints(work / "checkpoints")
        self.steps_per_epoch = task.loader.steps_per_epoch
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.schedule = Cosine.of(
            settings.base_lr,
            settings.min_lr,
            settings.global_batch,
            settings.warmup_epochs,
            settings.epochs,
            self.steps_per_epoch,
        )
        self.step = 0
        self.passed_over: set[int] = set()
        self.nonfinite = 0
        self.spent = Spent()
        self.watched = Watched()
        self.last_loss = math.nan
        self._stop_flag = torch.zeros((), device=ranks.device)
        self._unread: list[Posted] = []
        self._marks = Marks(self.clock)
        self._since = self._posted = time.perf_counter()
        self._started_at = -1

    # -- the run ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a signal asked to stop; the state was saved at the step boundary.
            NonFinite: a non-finite loss or gradient, by policy.
        """
        self.resume()
        self._started_at = self.step
        if self.ranks.main:  # what a reader of the history cannot tell from it
            length = {"steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}
            write_json(self.work / "length.json", length)
        while True:
            if self.step % self.steps_per_epoch == 0 and self.step != self.watched.step:
                self._validate(self.step // self.steps_per_epoch - 1)
            if self.step >= self.total_steps or self.ended_early:
                break
            with contextlib.suppress(_Rewound):
                self._epoch()
        if self.step < self.total_steps:
            self.progress.say(
                f"ended after step {self.step} of {self.total_steps}: {self.watched.waited} validations in a row were "
                f"not better than {100 * (self.watched.best or 0):.1f} %"
            )
        self.checkpoints.wait()
        self.journal.flush()

    @property
    def ended_early(self) -> bool:
        """Whether as many validations in a row as `patience` says brought no better score."""
        return self.settings.patience is not None and self.watched.waited >= self.settings.patience

    def _epoch(self) -> None:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        batches = iter(self.task.loader.epoch(epoch, start_micro_step=done * self.settings.accumulate))
        self.model.train()
        self._since = self._posted = time.perf_counter()
        for _ in range(done, self.steps_per_epoch):
            if self.step in self.passed_over:
                self.step += 1
                raise _Rewound
            save = (self.step + 1) % self.settings.checkpoint_every_steps == 0
            self.advance(batches, epoch, at_once=save)
            if save:
                self.save()
                self._since = self._posted = time.perf_counter()
        self._settle(epoch, at_once=True)
        self._count_time()

    def advance(self, batches: Iterator[Batch], epoch: int, at_once: bool = False) -> None:
        """One optimizer step, and what there is to record and to decide of it; `at_once` waits for the device."""
        self._train_step(batches, epoch)
        self.step += 1
        self._count_time()
        self._settle(epoch, at_once or self.ranks.device.type == "cpu")
        self.after_step()
        self._count_time()

    def _count_time(self) -> None:
        """Add what passed since the last call to the time that training took."""
        now = time.perf_counter()
        if self.step - self._started_at > 1:
            self.spent.train += now - self._since
        else:
            self.spent.first += now - self._since
        self._since = now

    def _train_step(self, batches: Iterator[Batch], epoch: int) -> None:
        """One optimizer step over all ranks. Nothing here waits for the device."""
        accumulate = self.settings.accumulate
        self._marks = Marks(self.clock)
        set_lr(self.optimizer, self.schedule(self.step))
        total, indices = torch.zeros((), device=self.ranks.device), []
        for micro in range(accumulate):
            self._begin("loading", micro)
            batch = next(batches)
            indices.append(batch.index_B)
            self._begin("forward", micro)
            with reduce_gradients(self.parallel, micro + 1 == accumulate):
                with self._autocast():
                    loss = self.task.loss(self.parallel, batch, epoch) / accumulate
                self._begin("backward", micro)
                self.scaler.scaled(loss).backward()
            total += loss.detach()
        self._begin("updating")
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.scaler.unscale(gradients)
        norm = self._clip(gradients)
        if self.stop.signal:
            self._stop_flag.fill_(1.0)
        self._begin("exchange")
        report = self.ranks.sum_(torch.stack([(~total.isfinite()).float(), self._stop_flag, total]))
        self._begin("updating")
        # After the exchange every rank holds the same gradients and the same report: all refuse, or none.
        refused = (report[0] > 0) | ~norm.isfinite()
        step_unless(self.optimizer, refused)
        self.scaler.update(refused)
        self.average.update(refused)
        self.optimizer.zero_grad(set_to_none=True)
        self._marks.begin("updating")  # only ends the step
        self._post(torch.cat([report, norm.reshape(1)]), indices)

    def _begin(self, part: str, micro: int = 0) -> None:
        self.pulse.beat(part, self.step, micro)
        self._marks.begin(part)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        half = HALF.get(self.settings.precision)
        if half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=half)

    def _clip(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """The global gradient norm before clipping; clips where asked."""
        norm = whole(nn.utils.get_total_norm(gradients))
        if self.settings.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_grad, norm)
        return norm

    # -- what happened, read one step late on a GPU so that it never waits --------------------------

    def _post(self, report: torch.Tensor, indices: list[torch.Tensor]) -> None:
        event = None
        if report.device.type == "cuda":
            host = torch.empty(report.shape, dtype=report.dtype, pin_memory=True)
            host.copy_(report, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            report = host
        now = time.perf_counter()
        self._unread.append(Posted(self.step, report, event, indices, self._marks, now - self._posted))
        self._posted = now

    def _settle(self, epoch: int, at_once: bool) -> None:
        """Act on finished steps: all of them if `at_once`, else all but the newest."""
        while len(self._unread) > (0 if at_once else 1):
            posted = self._unread.pop(0)
            if posted.event is not None:
                posted.event.synchronize()
            bad, stop, loss, norm = posted.report.tolist()
            verdict = Verdict(posted.step, bad, stop, loss / self.ranks.world, norm, posted.indices)
            self._act(verdict, epoch, posted.seconds, self._add_parts(posted))

    def _add_parts(self, posted: Posted) -> dict[str, float]:
        """[s] of the step's parts, added to what was spent unless it is the first after a start."""
        parts = posted.marks.seconds()
        if posted.step != self._started_at:
            self.spent.steps += 1
            self.spent.clips += sum(len(index_B) for index_B in posted.indices)
            for part, seconds in parts.items():
                setattr(self.spent, part, getattr(self.spent, part) + seconds)
        return parts

    def _act(self, verdict: Verdict, epoch: int, seconds: float, parts: dict[str, float]) -> None:
        # With fp16 an overflowing gradient is the scaler's daily work; a non-finite loss is not.
        if verdict.bad_ranks or (self.settings.precision != "fp16" and not math.isfinite(verdict.grad_norm)):
            self._on_nonfinite(verdict)
        else:
            self.last_loss = verdict.loss
        lr = self.schedule(verdict.step)
        self.journal.step(verdict.step + 1, epoch, verdict.loss, lr, verdict.grad_norm, seconds, parts)
        self.progress.step(verdict.step + 1, self.total_steps, verdict.loss)
        if verdict.stop:
            self._settle(epoch, at_once=True)
            self.save()
            self.checkpoints.wait()
            reason = next((s for s in self.ranks.gather(self.stop.signal) if s), "SIGTERM")
            raise Interrupted(f"stopped by {reason} after step {self.step}; saved. Start again to continue.")

    def _on_nonfinite(self, verdict: Verdict) -> None:
        self.nonfinite += 1
        report = self.ranks.gather(
            {"rank": self.ranks.rank, "clips": [i.tolist() for i in verdict.indices], "loss": verdict.loss}
        )
        if self.ranks.main:
            record = {
                "step": verdict.step,
                "bad_ranks": verdict.bad_ranks,
                "grad_norm": str(verdict.grad_norm),
            }
            text = json.dumps({**record, "ranks": report}, indent=1)
            (self.work / f"nonfinite-{verdict.step:09d}.json").write_text(text)
        policy = self.settings.on_nonfinite
        where = f"step {verdict.step}: loss {verdict.loss}, gradient norm {verdict.grad_norm}"
        if policy == "stop" or self.nonfinite > self.settings.max_nonfinite:
            self.journal.flush()
            raise NonFinite(
                f"{where}; non-finite on {verdict.bad_ranks:.0f} of {self.ranks.world} ranks. No update was made from "
                f"it; its clips are listed in {self.work}/nonfinite-{verdict.step:09d}.json. Cure: lower base_lr, set "
                "clip_grad, or set on_nonfinite to 'skip' or 'rollback'."
            )
        if policy == "rollback":
            self.passed_over.add(verdict.step)
            self._unread.clear()
            self.checkpoints.wait()
            counted = self.nonfinite
            self.resume()
            self.nonfinite = counted
            raise _Rewound

    # -- checkpoints --------------------------------------------------------------------------------

    def save(self, score: float | None = None) -> None:
        """Checkpoint the state between two steps; the writing goes on in the background (rank 0)."""
        began = time.perf_counter()
        self.pulse.beat("saving", self.step)
        parts = {
            "model": snapshot.model_tensors(self.model),
            "optimizer": snapshot.optimizer_tensors(self.optimizer),
            "average": self.average.tensors(),
            "rng": snapshot.gather_rng(self.ranks),
        }
        if self.ranks.main:
            state = {
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "step_in_epoch": self.step % self.steps_per_epoch,
                "world": self.ranks.world,
                "global_batch": self.settings.global_batch,
                "scaler": self.scaler.state(),
                "passed_over": sorted(self.passed_over),
                "nonfinite": self.nonfinite,
                "last_loss": self.last_loss if math.isfinite(self.last_loss) else None,
                "spent": self.spent.as_dict(),
                "watched": asdict(self.watched),
            }
            self.journal.flush()
            self.checkpoints.save(self.step, {k: v for k, v in parts.items() if v}, state, score)
        self.spent.save += time.perf_counter() - began

    def resume(self) -> None:
        """Go to the newest intact checkpoint; to the beginning, freshly seeded, where there is none."""
        if self.ranks.main:
            self.checkpoints.wait()
        newest = self.checkpoints.newest() if self.ranks.main else None
        chosen = self.ranks.broadcast(None if newest is None else newest.step)
        if chosen is None:
            if self.step:
                raise NonFinite("there is no checkpoint to go back to yet. Cure: lower checkpoint_every_steps.")
            self.journal.rewind(0)
            return
        self.restore(newest or self._load(chosen))
        self.journal.rewind(self.step, self.watched.step)

    def _load(self, step: int) -> Checkpoint:
        try:
            return self.checkpoints.load(step)
        except CorruptCheckpoint as error:
            raise EverestError(f"rank {self.ranks.rank} sees another checkpoint than rank 0: {error}") from error

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's whole state (on any number of ranks)."""
        state, tensors = checkpoint.state, checkpoint.tensors
        snapshot.load_model(self.model, tensors["model"])
        snapshot.load_optimizer(self.optimizer, tensors.get("optimizer", {}))
        self.average.load(tensors.get("average", {}))
        self.scaler.load(state["scaler"])
        snapshot.restore_rng(tensors["rng"], self.ranks, self.settings.seed + checkpoint.step)
        self.step = checkpoint.step
        self.passed_over |= set(state["passed_over"])
        self.nonfinite = state["nonfinite"]
        self.last_loss = math.nan if state["last_loss"] is None else state["last_loss"]
        self.spent = Spent(**state["spent"])
        # A checkpoint of before validations were counted is taken as one after its validation.
        self.watched = Watched(**state.get("watched", {"step": checkpoint.step}))
        self.journal.scores = self.watched.scores

    # -- validation and the result ------------------------------------------------------------------

    def _validate(self, epoch: int) -> None:
        began = time.perf_counter()
        self.pulse.beat("validating", self.step)
        self.model.eval()
        with self.average.in_place_of(), torch.no_grad(), self._autocast():
            alive = partial(self.pulse.beat, "validating", self.step)
            scores = self.task.validate(epoch, self.step >= self.total_steps, alive)
            forget_gathered(self.parallel)
        self.model.train()
        self.spent.validate += time.perf_counter() - began
        self.watched.step = self.step
        if scores:
            self.watched.note(scores)
            self.journal.validation(self.step, epoch, scores)
            self.progress.note(epoch, scores)
            if self.settings.select == "best":
                self.save(score=scores[names.VAL_TOP1])

    def result(self) -> dict[str, torch.Tensor]:
        """The parameters to publish, on the CPU: last or best by validation, averaged where an average is kept."""
        step = self.ranks.broadcast(self.checkpoints.best() if self.ranks.main else None)
        if self.settings.select == "best" and step is not None and step != self.step:
            self.restore(self._load(step))
        with self.average.in_place_of():
            return snapshot.model_tensors(self.model)
