"""Each rule of health fires on what it is for, and none on a pre-training that goes well."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from pipeline.monitor.evidence import Evidence, Facts, Probed
from pipeline.monitor.health import judge, news
from pipeline.monitor.history import History
from pipeline.monitor.record import Look
from pipeline.monitor.rules import RULES
from pipeline.params.parts.monitor import HealthParams
from pipeline.tracking import names

STEPS, WARMUP, MEAN = 768, 32, 0.998
CALM = Facts(own=(0.10, 0.11), loader=0.1, memory=0.5, steps=32)
#: The demo's losses, by share of its steps: a mean over 15 of them.
DEMO = {0.0: 1.06, 0.03: 1.013, 0.05: 0.998, 0.07: 0.978, 0.1: 0.95, 0.2: 0.941, 0.3: 0.922, 0.5: 0.894, 1.0: 0.823}


def losses(points: Mapping[float, float], seed: int = 0, noise: float = 0.012) -> np.ndarray:
    """A curve through the points, with the noise of the demo's batches once it has left the start."""
    place = np.arange(STEPS) / STEPS
    curve = np.interp(place, list(points), list(points.values()))
    noise_of = np.where(curve > 0.99, noise / 10, noise)
    return curve + np.random.default_rng(seed).normal(size=STEPS) * noise_of


def history(curve: np.ndarray, norms: np.ndarray | None = None) -> History:
    kept = History()
    for place, loss in enumerate(curve.tolist()):
        kept.add(loss, 0.1 if norms is None else float(norms[place]), 1e-3)
    return kept


def looks(**more: Callable[[float], float]) -> list[Look]:
    """Ten looks and the one before training; `more` are metrics as functions of the share of the steps."""
    usual: dict[str, Callable[[float], float]] = {
        names.MEAN_LOSS: lambda _: MEAN,
        names.LOSS_SHARE: lambda share: float(np.interp(share, list(DEMO), list(DEMO.values()))) / MEAN,
        names.RANK_ME: lambda share: 12 + 4 * share,
        names.DEVIATION: lambda _: 0.5,
        names.attention_entropy(0): lambda share: 0.99 - 0.4 * share,
        names.monitor_of(names.RIDGE, "motion"): lambda share: 0.2 + 0.3 * share,
        names.monitor_of(names.RIDGE_SEEN, "motion"): lambda share: 0.2 + 0.35 * share,
        names.OWN_TARGETS: lambda _: 1.0,
        names.CONSTANT_CLIPS: lambda _: 0.0,
        names.STILL_CLIPS: lambda _: 0.0,
        names.TWICE: lambda _: 0.0,
    }
    every = {**usual, **more}
    return [
        Look(round(share * STEPS), share, {name: value(share) for name, value in every.items()}, True)
        for share in np.linspace(0, 1, 11).tolist()
    ]


def evidence(
    curve: np.ndarray,
    every_look: list[Look] | None = None,
    facts: Facts | None = CALM,
    norms: np.ndarray | None = None,
) -> Evidence:
    """Of the whole training; `until` cuts it off."""
    probed = {"motion": Probed(600, 300, unseen=True)}
    return Evidence(STEPS, STEPS, WARMUP, history(curve, norms), every_look or looks(), facts, probed)


def until(whole: Evidence, step: int) -> Evidence:
    """What was known after a step."""
    return replace(whole, step=step, looks=[look for look in whole.looks if look.step <= step])


def first_fired(whole: Evidence) -> dict[str, int]:
    """Rule -> the step at which it first held, judged as often as in a training."""
    fired: dict[str, int] = {}
    for step in range(7, STEPS + 1, 7):
        for alarm in judge(until(whole, step), HealthParams(), ()):
            fired.setdefault(alarm.rule, step)
    return fired


@pytest.mark.parametrize("seed", range(5))
def test_none_fires_on_a_pretraining_that_goes_well(seed: int) -> None:
    norms = np.random.default_rng(seed).lognormal(np.log(0.1), 0.4, STEPS)
    norms[:WARMUP] *= 8
    assert first_fired(evidence(losses(DEMO, seed), norms=norms)) == {}


@pytest.mark.parametrize("seed", range(20))
def test_none_fires_on_a_small_batch_whose_noise_hides_the_fall(seed: int) -> None:
    """A quarter of the demo's batch, as it was measured: no fall from one window to the next, but the loss is below."""
    quarter = {
        0.0: 1.06, 0.05: 1.012, 0.083: 1.0, 0.117: 0.993, 0.15: 0.976, 0.2: 0.962, 0.3: 0.955, 0.5: 0.92, 1.0: 0.86
    }  # fmt: skip
    curve = np.interp(np.arange(STEPS) / STEPS, list(quarter), list(quarter.values()))
    noise = np.clip(0.002 + 0.5 * (1 - curve), 0.002, 0.025)
    assert first_fired(evidence(curve + noise * np.random.default_rng(seed).normal(size=STEPS))) == {}


TENTH = STEPS // 10
STUCK = {0.0: 1.06, 0.03: 1.001, 1.0: 1.0}


@pytest.mark.parametrize(("rule", "whole"), [
    ("learned-nothing", evidence(losses(STUCK))),
    ("rate-too-low", evidence(losses({0.0: 1.06, 1.0: 1.06}))),
    ("rate-too-high", evidence(losses({0.0: 1.06, 0.03: 4.0, 0.05: 1.2, 0.1: 1.01, 1.0: 1.0}))),
    ("diverging", evidence(losses({0.0: 1.06, 0.04: 1.0, 0.06: 1.0, 0.1: 2.0, 1.0: 5.0}))),
    ("bad-clips", evidence(losses(DEMO), looks(**{names.STILL_CLIPS: lambda _: 0.9}))),
    ("collapse", evidence(losses(DEMO), looks(**{names.DEVIATION: lambda share: 0.5 if share == 0 else 1e-5}))),
    ("collapse", evidence(losses(DEMO), looks(**{names.attention_entropy(2): lambda share: 0.9 * (share == 0)}))),
    ("other-targets", evidence(losses(DEMO), looks(**{names.OWN_TARGETS: lambda _: 0.1}))),
    ("loader-bound", evidence(losses(DEMO), facts=replace(CALM, loader=0.6))),
    ("slow-rank", evidence(losses(DEMO), facts=replace(CALM, own=(0.1, 0.1, 0.25, 0.1)))),
    ("slow-rank", evidence(losses(DEMO), facts=replace(CALM, own=(0.1, 0.25)))),
    ("memory", evidence(losses(DEMO), facts=replace(CALM, memory=0.97))),
])  # fmt: skip
def test_what_is_wrong_from_the_start_is_named_within_a_tenth_of_the_budget(rule: str, whole: Evidence) -> None:
    fired = first_fired(whole)
    assert rule in fired
    assert fired[rule] <= TENTH + 7


@pytest.mark.parametrize(("rule", "whole"), [
    ("plateau", evidence(losses({**{s: v for s, v in DEMO.items() if s < 0.3}, 0.3: 0.92, 1.0: 0.92}, noise=0.003))),
    ("collapse", evidence(losses(DEMO), looks(**{names.RANK_ME: lambda share: 16 if share < 0.45 else 3}))),
    ("by-heart", evidence(losses(DEMO), looks(**{names.LOSS_SHARE: lambda share: 1.06 - 0.05 * share}))),
    ("overfit", evidence(losses(DEMO), looks(
        **{names.monitor_of(names.RIDGE_SEEN, "motion"): lambda share: 0.2 + 0.7 * share}))),
    ("gradient-norm", evidence(losses(DEMO), norms=np.where(np.arange(STEPS) > 500, 5.0, 0.1))),
    ("gradient-norm", evidence(losses(DEMO), norms=np.where(np.arange(STEPS) > 500, 1e-4, 0.1))),
])  # fmt: skip
def test_what_comes_later_is_named_when_it_comes(rule: str, whole: Evidence) -> None:
    fired = first_fired(whole)
    assert rule in fired
    assert fired[rule] > 2 * TENTH


def test_every_rule_has_a_case_above_and_words_without_a_full_stop() -> None:
    marks = [
        *test_what_is_wrong_from_the_start_is_named_within_a_tenth_of_the_budget.pytestmark,  # type: ignore[attr-defined]
        *test_what_comes_later_is_named_when_it_comes.pytestmark,  # type: ignore[attr-defined]
    ]
    cases = {case[0] for mark in marks for case in mark.args[1]}
    assert cases == {rule.name for rule in RULES}
    assert not [rule.name for rule in RULES if rule.cause.endswith(".") or rule.cure.endswith(".")]


def test_a_loss_that_only_begins_to_fall_is_given_time_but_not_for_ever() -> None:
    slow = evidence(losses({0.0: 1.05, 1.0: 0.975}))
    fired = first_fired(slow)
    assert fired["learned-nothing"] >= 0.2 * STEPS


def test_patience_is_counted_in_steps_where_a_training_is_long() -> None:
    """A fifth of 100,000 steps are days; a thousand after the warm-up are enough to see whether anything is learned."""
    long, warmup = 100_000, 2000
    curve = np.interp(np.arange(long) / long, [0, 0.02, 1], [1.06, 0.99, 0.975])
    curve += np.random.default_rng(0).normal(size=long) * 0.005
    whole = Evidence(long, long, warmup, history(curve), looks(), CALM)
    fired = [a.rule for a in judge(replace(whole, step=8000), HealthParams(), ())]
    assert fired == ["learned-nothing"]
    assert judge(replace(whole, step=6000), HealthParams(), ()) == (), "not before judge_from"


def test_an_alarm_keeps_its_first_step_and_is_laid_down_when_it_passes() -> None:
    bound = until(evidence(losses(DEMO), facts=replace(CALM, loader=0.6)), 100)
    first = judge(bound, HealthParams(), ())
    later = judge(replace(bound, step=200), HealthParams(), first)
    assert [(alarm.rule, alarm.step, alarm.holds) for alarm in later] == [("loader-bound", 100, True)]
    assert [alarm.rule for alarm in news((), first)] == ["loader-bound"]
    assert news(first, later) == []
    past = judge(until(evidence(losses(DEMO)), 300), HealthParams(), later)
    assert [(alarm.rule, alarm.holds) for alarm in past] == [("loader-bound", False)]
    again = judge(replace(bound, step=400), HealthParams(), past)
    assert [(alarm.rule, alarm.step) for alarm in again] == [("loader-bound", 400)], "told anew: it is another one"


def test_thresholds_come_from_params() -> None:
    bound = evidence(losses(DEMO), facts=replace(CALM, loader=0.3))
    assert judge(bound, HealthParams(), ()) == ()
    assert [a.rule for a in judge(bound, HealthParams(loader_wait=0.2), ())] == ["loader-bound"]


def test_probes_without_unseen_videos_say_nothing_of_overfitting() -> None:
    whole = evidence(
        losses(DEMO), looks(**{names.monitor_of(names.RIDGE_SEEN, "motion"): lambda share: 0.2 + 0.7 * share})
    )
    assert first_fired(replace(whole, probed={"motion": Probed(600, 300, unseen=False)})) == {}


def test_a_refused_step_leaves_no_hole_in_what_the_rules_read() -> None:
    kept = History()
    for loss in (1.0, math.nan, 0.8):
        kept.add(loss, math.inf if math.isnan(loss) else 2.0, 1e-3)
    assert kept.losses().tolist() == [1.0, 1.0, 0.8]
    assert kept.norms().tolist() == [2.0, 2.0, 2.0]


def test_a_training_whose_first_steps_overflow_is_judged_by_the_others() -> None:
    kept = History()
    for loss, norm in ((math.nan, math.inf), (math.nan, math.nan), (0.9, 2.0), (0.8, 3.0)):
        kept.add(loss, norm, 1e-3)
    assert kept.losses().tolist() == [0.9, 0.9, 0.9, 0.8]
    assert kept.norms().tolist() == [2.0, 2.0, 2.0, 3.0]
