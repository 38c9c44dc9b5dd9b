"""The training loop: epochs, the order of step, record and decision, checkpoints, validation.

The state of a run is one number, the optimizer step, and what a checkpoint holds; epoch, position inside it
and learning rate follow from the step. The step itself is :class:`pipeline.training.engine.step.TrainStep`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from pipeline.distributed.groups import Ranks, forget_gathered, whole
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import EverestError, Interrupted, Paused
from pipeline.monitor.watch import NoWatcher, Watcher
from pipeline.system.files import write_json
from pipeline.system.processes import PAUSE, StopRequest
from pipeline.tracking import names
from pipeline.training import snapshot
from pipeline.training.checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint
from pipeline.training.engine import refusal
from pipeline.training.engine.interface import Batch, Task
from pipeline.training.engine.state import Spent, TrainingState, Watched
from pipeline.training.engine.step import Outcome, Pending, TrainStep
from pipeline.training.journal import Journal, Progress
from pipeline.training.optim import LOWEST_SCALE
from pipeline.training.settings import Settings
from pipeline.training.timing import Clock, clock_of


class _Rewound(Exception):
    """The run went back to a checkpoint: the epoch's iterator is void."""


class Engine:
    """Trains `task` to the end of `settings.epochs`, from the newest intact checkpoint in `work` if there is one.

    Args:
        taken: seconds and Wh of this process since it was last asked.
    """

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
        monitor: Watcher | None = None,
        taken: Callable[[], tuple[float, float | None]] = lambda: (0.0, None),
    ) -> None:
        self.task, self.settings, self.ranks, self.work = task, settings, ranks, work
        self.journal, self.pulse, self.stop, self.progress = journal, pulse, stop, progress
        self.after_step, self.monitor, self.taken = after_step, monitor or NoWatcher(), taken
        snapshot.seed_all(settings.seed, ranks)
        self.train_step = TrainStep(
            task, settings, ranks, pulse=pulse, stop=stop, clock=clock or clock_of(ranks.device)
        )
        self.model, self.parameters = self.train_step.model, self.train_step.parameters
        self.scaler, self.average = self.train_step.scaler, self.train_step.average
        self.checkpoints = Checkpoints(work / "checkpoints")
        self.steps_per_epoch = task.loader.steps_per_epoch
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.passed_over: set[int] = set()
        self.nonfinite = 0
        self.spent = Spent()
        self.watched = Watched()
        self.last_loss = math.nan
        #: Steps not yet read from the device, with the seconds that each took.
        self._unread: list[tuple[Pending, float]] = []
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
        self._look()
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
        self.monitor.flush(self.spent.first + self.spent.train)

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
            if self.monitor.due(self.step):
                self._settle(epoch, at_once=True)
                self._count_time()
                self._look()
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

    def _train_step(self, batches: Iterator[Batch], epoch: int) -> None:
        """One step, to be read when the device is done."""
        pending = self.train_step(batches, epoch, self.step)
        now = time.perf_counter()
        self._unread.append((pending, now - self._posted))
        self._posted = now

    def _count_time(self) -> None:
        """Add what passed since the last call to the time that training took."""
        now = time.perf_counter()
        if self.step - self._started_at > 1:
            self.spent.train += now - self._since
        else:
            self.spent.first += now - self._since
        self._since = now

    # -- what happened, read one step late on a GPU so that it never waits --------------------------

    def _settle(self, epoch: int, at_once: bool) -> None:
        """Act on finished steps: all of them if `at_once`, else all but the newest."""
        while len(self._unread) > (0 if at_once else 1):
            pending, seconds = self._unread.pop(0)
            outcome = pending.outcome(self.ranks.world)
            parts = pending.marks.seconds()
            if pending.step != self._started_at:
                self.spent.add_step(pending.clips, parts)
            self._act(outcome, epoch, seconds, parts)

    def _act(self, outcome: Outcome, epoch: int, seconds: float, parts: dict[str, float]) -> None:
        # An overflowing gradient is the scaler's daily work while it can scale less; a non-finite loss is not.
        if outcome.bad_ranks or (outcome.scale <= LOWEST_SCALE and not math.isfinite(outcome.grad_norm)):
            self._on_nonfinite(outcome)
        else:
            self.last_loss = outcome.loss
        lr = self.train_step.schedule(outcome.step)
        self.journal.step(outcome.step + 1, epoch, outcome.loss, lr, outcome.grad_norm, seconds, parts)
        self.monitor.step(outcome.step + 1, outcome.loss, outcome.grad_norm, lr)
        self.progress.step(outcome.step + 1, self.total_steps, outcome.loss)
        if outcome.stop:
            self._settle(epoch, at_once=True)
            self.save()
            self.checkpoints.wait()
            reasons = [reason for reason in self.ranks.gather(self.stop.signal) if reason] or ["SIGTERM"]
            reason = next((reason for reason in reasons if reason != PAUSE), None)
            if reason is None:
                raise Paused(f"paused after step {self.step}; saved. Start again to continue.")
            raise Interrupted(f"stopped by {reason} after step {self.step}; saved. Start again to continue.")

    def _on_nonfinite(self, outcome: Outcome) -> None:
        self.nonfinite += 1
        refusal.record(self.work, outcome, self.ranks)
        policy = self.settings.on_nonfinite
        if policy == "stop" or self.nonfinite > self.settings.max_nonfinite:
            self.journal.flush()
            raise refusal.error(self.work, outcome, self.ranks)
        if policy == "rollback":
            self.passed_over.add(outcome.step)
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
        self.spent.add_process(*self.taken())
        parts = {
            "model": snapshot.model_tensors(self.model),
            "optimizer": snapshot.optimizer_tensors(self.train_step.optimizer),
            "average": self.average.tensors(),
            "rng": snapshot.gather_rng(self.ranks),
        }
        if self.ranks.main:
            state = TrainingState(
                step=self.step,
                epoch=self.step // self.steps_per_epoch,
                step_in_epoch=self.step % self.steps_per_epoch,
                world=self.ranks.world,
                global_batch=self.settings.global_batch,
                scaler=self.scaler.state(),
                passed_over=sorted(self.passed_over),
                nonfinite=self.nonfinite,
                last_loss=self.last_loss if math.isfinite(self.last_loss) else None,
                spent=self.spent,
                watched=self.watched,
                seen=snapshot.seen_budgets(self.model),
            )
            self.journal.flush()
            self.monitor.flush(self.spent.first + self.spent.train)
            self.checkpoints.save(self.step, {k: v for k, v in parts.items() if v}, asdict(state), score)
        self.spent.save += time.perf_counter() - began

    def resume(self) -> None:
        """Go to the newest intact checkpoint; to the beginning, freshly seeded, where there is none."""
        if self.ranks.main:
            self.checkpoints.wait()
        newest = self.checkpoints.newest() if self.ranks.main else None
        chosen = self.ranks.broadcast(None if newest is None else newest.step)
        if chosen is None:
            if self.step:
                raise refusal.NonFinite("there is no checkpoint to go back to yet. Cure: lower checkpoint_every_steps.")
            self.journal.rewind(0)
            self.monitor.rewind(0, self.spent.pace)
            return
        self.restore(newest or self._load(chosen))
        self.journal.rewind(self.step, self.watched.step)
        self.monitor.rewind(self.step, self.spent.pace)

    def _load(self, step: int) -> Checkpoint:
        try:
            return self.checkpoints.load(step)
        except CorruptCheckpoint as error:
            raise EverestError(f"rank {self.ranks.rank} sees another checkpoint than rank 0: {error}") from error

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's whole state (on any number of ranks)."""
        state, tensors = TrainingState.of(checkpoint.state), checkpoint.tensors
        snapshot.load_model(self.model, tensors["model"])
        snapshot.load_optimizer(self.train_step.optimizer, tensors.get("optimizer", {}))
        self.average.load(tensors.get("average", {}))
        self.scaler.load(state.scaler)
        snapshot.restore_rng(tensors["rng"], self.ranks, self.settings.seed + checkpoint.step)
        snapshot.load_seen(self.model, state.seen)
        self.step, self.nonfinite = checkpoint.step, state.nonfinite
        self.passed_over |= set(state.passed_over)
        self.last_loss = math.nan if state.last_loss is None else state.last_loss
        self.spent = state.spent.on_ranks(state.world, self.ranks.world, self.ranks.device.type == "cuda")
        self.watched, self.journal.scores = state.watched, state.watched.scores

    # -- what looks at it ---------------------------------------------------------------------------

    def _look(self) -> None:
        """Let the monitor look, where it is due: it gets copies to read, and time that does not count as training."""
        if not self.monitor.due(self.step):
            return
        began = time.perf_counter()
        self.monitor.look(self.step, self._published, self.spent.pace)
        self.spent.look += time.perf_counter() - began

    def _published(self) -> dict[str, torch.Tensor]:
        """The parameters as they would be published now, whole (a collective under FSDP)."""
        values = self.average.values
        return {name: whole(values.get(name, p).detach()) for name, p in self.model.named_parameters()}

    # -- validation and the result ------------------------------------------------------------------

    def _validate(self, epoch: int) -> None:
        began = time.perf_counter()
        self.pulse.beat("validating", self.step)
        self.model.eval()
        with self.average.in_place_of(), torch.no_grad(), self.train_step.autocast():
            alive = partial(self.pulse.beat, "validating", self.step)
            scores = self.task.validate(epoch, self.step >= self.total_steps, alive)
            forget_gathered(self.train_step.parallel)
        self.model.train()
        self.spent.validate += time.perf_counter() - began
        self.watched.step = self.step
        if scores:
            self.watched.note(scores)
            self.journal.validation(self.step, epoch, scores)
            self.progress.note(epoch, scores)
            if self.settings.select == "best":
                self.save(score=names.validation_score(scores))

    def result(self) -> dict[str, torch.Tensor]:
        """The parameters to publish, on the CPU: last or best by validation, averaged where an average is kept."""
        step = self.ranks.broadcast(self.checkpoints.best_intact() if self.ranks.main else None)
        if self.settings.select == "best" and step is not None and step != self.step:
            self.restore(self._load(step))
        with self.average.in_place_of():
            return snapshot.model_tensors(self.model)
