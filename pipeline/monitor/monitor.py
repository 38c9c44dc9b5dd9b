"""The monitor of a pre-training: looks at its weights now and then, and says how it goes. It never changes anything.

All ranks agree on the step of the next look at the one before, so that the steps between take no exchange. The numbers
of a look are a function of the weights; the rules of health are judged on rank 0, from those numbers and the losses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pipeline.distributed.groups import Ranks
from pipeline.monitor import health
from pipeline.monitor.clips import MonitoredClips
from pipeline.monitor.evidence import FEWEST_STEPS, Evidence, Facts, Probed
from pipeline.monitor.history import History
from pipeline.monitor.look import find_flaws, take_look
from pipeline.monitor.record import Look, MonitorRecord, read_record, write_record
from pipeline.monitor.schedule import Next, Schedule, Spent
from pipeline.monitor.twin import Twin
from pipeline.monitor.watch import Pace
from pipeline.params.parts.monitor import HealthParams
from pipeline.tracking import names

log = logging.getLogger(__name__)

#: The rules are judged this often in a training, beside after each look.
CHECKS = 100
#: [s] that a record may lag behind, where nothing new was found.
WRITE_SECONDS = 5.0


class Sink(Protocol):
    """Where numbers and tags go: a run's spool."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...
    def tags(self, values: Mapping[str, object]) -> None: ...


@dataclass(frozen=True)
class Voice:
    """How the monitor is heard, on rank 0: the run's spool, the progress line, and the beat that says that it lives."""

    sink: Sink
    remark: Callable[[str], None]
    alive: Callable[[int], None]
    memory: Callable[[], float]


@dataclass(frozen=True)
class Training:
    """What is watched.

    Attributes:
        steps, warmup: of the training, and of its warm-up.
        gmacs_per_step: [G multiply-adds] of one optimizer step over all ranks, the backward pass counted.
    """

    steps: int
    warmup: int
    gmacs_per_step: float


class Monitor:
    """The monitor of one rank.

    Args:
        work: the training's folder: its record and history.csv are there.
    """

    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        thresholds: HealthParams,
        clips: MonitoredClips,
        twin: Twin,
        ranks: Ranks,
        work: Path,
        voice: Voice,
    ) -> None:
        self.training, self.schedule, self.thresholds = training, schedule, thresholds
        self.clips, self.twin, self.ranks, self.work, self.voice = clips, twin, ranks, work, voice
        self.record = MonitorRecord(training.steps)
        self.history = History()
        self._spent = Spent()
        self._next: Next | None = Next(0, long=True)
        self._facts: Facts | None = None
        self._before = Pace(0, 0.0, 0.0, 0.0)
        self._written = 0.0
        self._probed = {
            one.name: Probed(one.positives(slice(one.fit)), one.positives(slice(one.fit, None)), one.unseen)
            for one in clips.sets
        }
        self._check_every = max(1, training.steps // CHECKS)

    # -- what the engine tells -----------------------------------------------------------------------

    def rewind(self, step: int, pace: Pace) -> None:
        """Drop what was noted after `step`; looks that are dropped are taken again (a collective)."""
        self._before = pace  # rules that read clocks judge what comes, perhaps on another machine
        if self.ranks.main:
            self._take_up(step, pace)
        self._next = self.ranks.broadcast(self._next)

    def step(self, step: int, loss: float, norm: float, lr: float) -> None:
        if not self.ranks.main:
            return
        self.history.add(loss, norm, lr)
        if step % self._check_every == 0:
            self._judge(step)

    def due(self, step: int) -> bool:
        return self._next is not None and step >= self._next.step

    def look(self, step: int, weights: Callable[[], Mapping[str, Tensor]], pace: Pace) -> None:
        assert self._next is not None, "asked for by due()"
        began = time.perf_counter()
        long = self._next.long
        self.voice.alive(step)
        metrics = {}
        if not self.record.looks and step == 0:
            metrics = find_flaws(self.clips.trained, self.ranks, lambda: self.voice.alive(step)).metrics()
        metrics |= take_look(
            self.twin, weights(), self.clips, self.ranks, long=long, alive=lambda: self.voice.alive(step)
        )
        self._measure(pace)
        if self.ranks.main:
            self._note(Look(step, self.training.gmacs_per_step * step, metrics, long), pace, began)
        self._next = self.ranks.broadcast(self._next)

    def flush(self, trained: float) -> None:
        if self.ranks.main:
            whole = trained + self._spent.whole
            # Of all that was trained, not of what there was up to the last look.
            self.record = replace(self.record, cost=self._spent.whole / whole if whole else None)
            self._write()

    def metrics(self) -> dict[str, float]:
        if not self.record.looks:
            return {}
        cost = {} if self.record.cost is None else {names.MONITOR_FRACTION: self.record.cost}
        return {**self.record.newest, names.MONITOR_SECONDS: self.record.seconds, **cost}

    # -- on rank 0 -----------------------------------------------------------------------------------

    def _take_up(self, step: int, pace: Pace) -> None:
        self.history.rewind(step, self.work / "history.csv")
        record = read_record(self.work)
        if record is None or not record.looks or record.looks[0].step > step:
            self.record, self._next = MonitorRecord(self.training.steps), Next(0, long=True)
            if step > 0:  # a training that began without a monitor
                self._next = Next(step, long=True)
            return
        kept = tuple(look for look in record.looks if look.step <= step)
        self._spent = Spent(**record.spent)
        if len(kept) < len(record.looks):
            again = record.looks[len(kept)]
            self._next = Next(again.step, again.long)
        else:  # not the one of the record: params.yaml may ask for other looks since
            self._next = self.schedule.following(kept[-1].step, pace.step_seconds, self._spent)
        alarms = tuple(alarm for alarm in record.alarms if alarm.step <= step)
        self.record = replace(
            record,
            looks=kept,
            alarms=alarms,
            checked=min(record.checked, step),
            next_look=self._next.step if self._next else None,
            next_long=self._next.long if self._next else False,
        )

    def _measure(self, pace: Pace) -> None:
        """Gather what the clocks of all ranks say of the steps since the look before (a collective)."""
        steps = max(pace.steps - self._before.steps, 1)
        train = max(pace.train - self._before.train, 1e-9)
        own = ((pace.own - self._before.own) / steps, (pace.loader - self._before.loader) / train)
        everyone = self.ranks.gather((*own, self.voice.memory()))
        each, loader, memory = zip(*everyone, strict=True)
        self._facts = Facts(each, max(loader), max(memory), pace.steps - self._before.steps)
        if self._facts.steps >= FEWEST_STEPS:  # of fewer a mean says little: looks that come often share one
            self._before = pace

    def _note(self, look: Look, pace: Pace, began: float) -> None:
        """A finished look: its cost, when the next one comes, and the record."""
        self.record = replace(self.record, looks=(*self.record.looks, look))
        self._spent.add(time.perf_counter() - began, look.long)
        self._next = self.schedule.following(look.step, pace.step_seconds, self._spent)
        trained = pace.step_seconds * look.step
        self.record = replace(
            self.record,
            seconds=self._spent.whole,
            spent=asdict(self._spent),
            cost=self._spent.whole / (trained + self._spent.whole) if trained else None,
            next_look=self._next.step if self._next else None,
            next_long=self._next.long if self._next else False,
        )
        spent = {names.GMACS_SPENT: look.gmacs}
        self.voice.sink.metrics({**look.metrics, **spent}, look.step)
        self.voice.sink.metrics(
            {names.by_gmacs(name): value for name, value in look.metrics.items()}, round(look.gmacs)
        )
        self._judge(look.step, at_once=True)

    def _judge(self, step: int, at_once: bool = False) -> None:
        """Ask the rules, tell what is new, and write the record where something is or a while has passed."""
        evidence = Evidence(
            step,
            self.training.steps,
            self.training.warmup,
            self.history,
            self.record.looks,
            self._facts,
            self._probed,
        )
        before = self.record
        alarms = health.judge(evidence, self.thresholds, before.alarms)
        self.record = replace(before, alarms=alarms, checked=step)
        for alarm in health.news(before.alarms, alarms):
            log.warning("health: %s", alarm.sentence)
        changed = self.record.verdict != before.verdict
        if changed or len(before.looks) == 1:
            self.voice.sink.tags(
                {
                    "everest.health": self.record.verdict,
                    "everest.health.why": "\n".join(a.sentence for a in self.record.active) or "no alarm holds",
                }
            )
        self.voice.remark(self.record.line)
        if changed or at_once or time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        if not self.record.looks:
            return
        write_record(self.work, self.record)
        self._written = time.monotonic()
