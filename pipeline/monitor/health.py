"""The alarms of a training: raised where a rule begins to hold, laid down where it no longer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.monitor.evidence import Evidence
from pipeline.monitor.record import Alarm
from pipeline.monitor.rules import RULES
from pipeline.params.parts.monitor import HealthParams


def judge(evidence: Evidence, health: HealthParams, before: Sequence[Alarm]) -> tuple[Alarm, ...]:
    """All alarms so far, those that hold now first and in the order of the rules.

    An alarm keeps the step at which it was raised for as long as it holds; one that returns is a new one.
    """
    earlier = {alarm.rule: alarm for alarm in before if alarm.holds}
    holding: list[Alarm] = []
    for rule in RULES:
        what = rule.judge(evidence, health)
        if what is not None:
            since = earlier[rule.name].step if rule.name in earlier else evidence.step
            holding.append(Alarm(rule.name, since, what, rule.cause, rule.cure))
    names = {alarm.rule for alarm in holding}
    return (*holding, *(replace(alarm, holds=False) for alarm in before if alarm.rule not in names))


def news(before: Sequence[Alarm], now: Sequence[Alarm]) -> list[Alarm]:
    """The alarms that hold now and did not before."""
    held = {alarm.rule for alarm in before if alarm.holds}
    return [alarm for alarm in now if alarm.holds and alarm.rule not in held]
