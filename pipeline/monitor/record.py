"""What the monitor of a pre-training found so far: one small file in the run's folder, for whoever looks from outside.

`<work>/monitor.json` while it trains, `outputs/pretrain/monitor.json` after it. It is replaced whole after each look:
a reader sees the old or the new one. Reading it takes neither torch nor the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.system.files import read_json, write_json
from pipeline.tracking import names

FILE = "monitor.json"


@dataclass(frozen=True)
class Look:
    """The numbers of one look at the weights after optimizer step `step`.

    Attributes:
        gmacs: [G multiply-adds] that training had spent by then, over all clips, the backward pass counted.
        metrics: by their tracked names (`pipeline.tracking.names`).
        long: whether features were looked at too: a short look has fewer metrics.
    """

    step: int
    gmacs: float
    metrics: Mapping[str, float]
    long: bool = False


@dataclass(frozen=True)
class Alarm:
    """A rule of `pipeline.monitor.rules` that holds: what is wrong, why, and what to do about it.

    Attributes:
        rule: its name, the value of the tag `everest.health`.
        step: after which it was first seen to hold.
        what, cause, cure: each a phrase without a full stop.
        holds: False where a later look no longer found it.
    """

    rule: str
    step: int
    what: str
    cause: str
    cure: str
    holds: bool = True

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"{self.what} (since step {self.step}). Cause: {self.cause}. Cure: {self.cure}."


@dataclass(frozen=True)
class MonitorRecord:
    """All looks of a training, oldest first, and its alarms.

    Attributes:
        steps: that the training will have.
        checked: step of the newest look or check of the rules.
        seconds: that looks took, in this process and those before it.
        cost: their share of the time spent on training; None before it can be told.
        next_look, next_long: step and kind of the next one; None after the last.
        spent: `seconds` by kind of look, and those of the last of each (`pipeline.monitor.schedule.Spent`).
    """

    steps: int
    checked: int = 0
    looks: Sequence[Look] = ()
    alarms: Sequence[Alarm] = field(default_factory=tuple)
    seconds: float = 0.0
    cost: float | None = None
    next_look: int | None = None
    next_long: bool = False
    spent: Mapping[str, float] = field(default_factory=dict)

    @property
    def newest(self) -> dict[str, float]:
        """Each metric as the last look that measured it found it."""
        metrics: dict[str, float] = {}
        for look in self.looks:
            metrics |= look.metrics
        return metrics

    @property
    def metrics(self) -> list[str]:
        """The names of all that was measured: loss, probes and rank first, then the others in order."""
        first = (names.LOSS_SHARE, *(names.monitor_of(probe, "") for probe in names.PROBES), names.RANK_ME)

        def place(name: str) -> tuple[int, str]:
            return next((number for number, start in enumerate(first) if name.startswith(start)), len(first)), name

        return sorted(self.newest, key=place)

    @property
    def active(self) -> list[Alarm]:
        """The alarms that still hold."""
        return [alarm for alarm in self.alarms if alarm.holds]

    @property
    def verdict(self) -> str:
        """`healthy`, or the rules that hold, with commas."""
        return ", ".join(dict.fromkeys(alarm.rule for alarm in self.active)) or "healthy"

    @property
    def line(self) -> str:
        """How it goes, in a few words: `0.62 of the mean-predictor's loss, motion 41 % (ridge), healthy`."""
        newest, words = self.newest, []
        if names.LOSS_SHARE in newest:
            words.append(f"{newest[names.LOSS_SHARE]:.3f} of the mean-predictor's loss")
        for probe in (names.RIDGE, names.RIDGE_MAP):
            start = names.monitor_of(probe, "")
            words += [
                f"{name.removeprefix(start)} {100 * value:.0f} % ({names.PROBES[probe]})"
                for name, value in newest.items()
                if name.startswith(start)
            ]
        return ", ".join([*words, self.verdict])

    def curve(self, name: str) -> list[tuple[int, float, float]]:
        """(step, gmacs, value) of a metric at each look that measured it."""
        return [(look.step, look.gmacs, look.metrics[name]) for look in self.looks if name in look.metrics]


def write_record(folder: Path, record: MonitorRecord) -> None:
    """Replace the record in a folder."""
    write_json(folder / FILE, asdict(record))


def read_record(folder: Path) -> MonitorRecord | None:
    """The record in a folder; None where there is none: the monitor is off, or has not looked yet."""
    content = read_json(folder / FILE)
    return record_of(content) if content else None


def record_of(content: Mapping[str, Any]) -> MonitorRecord:
    """A record from what `dataclasses.asdict` made of it."""
    content = dict(content)
    looks = tuple(Look(**look) for look in content.pop("looks"))
    alarms = tuple(Alarm(**alarm) for alarm in content.pop("alarms"))
    return MonitorRecord(**content, looks=looks, alarms=alarms)
