"""The rules of a pre-training's health: a table of what to look for, with its cause and its cure.

Each rule is a function of the evidence and the thresholds in params.yaml (`pretrain.monitor.health`); it gives a phrase
where it holds. docs/monitoring.md says how the thresholds were found.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from pipeline.monitor.evidence import ERRORS, FEWEST_STEPS, LEAST_STEPS, Evidence, differ, fall_in_errors, may_fall
from pipeline.params.parts.monitor import HealthParams
from pipeline.tracking import names

#: Share of the steps, and steps after the warm-up, up to which a loss that goes the right way is given time.
PATIENCE, PATIENT_STEPS = 0.2, 1000
#: A loss falls where its mean does by so many standard errors, and by such a share; it has begun to fall where it is
#: below the mean-predictor's by such a share, and so many standard errors.
STILL, FALLING, BEGUN, BELOW = 1.5, 0.001, 0.003, 3.0
#: Standard errors by which a mean may be off by chance.
NOISE = 2.0

Judge = Callable[[Evidence, HealthParams], str | None]


class Rule(NamedTuple):
    name: str
    judge: Judge
    cause: str
    cure: str


def learned_nothing(evidence: Evidence, health: HealthParams) -> str | None:
    mean = evidence.newest(names.MEAN_LOSS)
    if not mean or not evidence.judged(health):
        return None
    recent, width = evidence.recent(), evidence.window
    share, error = float(recent.mean()) / mean, float(recent.std(ddof=1)) / len(recent) ** 0.5
    if share - NOISE * error / mean < 1 - health.learned_nothing:
        return None
    half = width + width // 2
    before = evidence.history.losses(evidence.step - 2 * half, evidence.step - half)
    now = evidence.history.losses(evidence.step - half, evidence.step)
    below = mean - float(now.mean())
    begun = below > max(BEGUN * mean, BELOW * float(now.std(ddof=1)) / len(now) ** 0.5)
    patient = evidence.step < min(PATIENCE * evidence.steps, evidence.warmup + PATIENT_STEPS)
    falls = fall_in_errors(before, now) > STILL and float(now.mean()) < (1 - FALLING) * float(before.mean())
    if patient and (begun or falls):
        return None
    return f"nothing is learned: the loss is {share:.3f} of what predicting the mean gives"


def rate_too_low(evidence: Evidence, health: HealthParams) -> str | None:
    """A network that cannot even predict the mean yet, and never jumped, is moved too little."""
    mean = evidence.newest(names.MEAN_LOSS)
    if not mean or not evidence.judged(health) or _jumped(evidence, health):
        return None
    recent, first = evidence.recent(), evidence.history.losses(0, evidence.window)
    share = float(recent.mean()) / mean
    if share < 1 + health.learned_nothing or float(recent.mean()) > float(first.mean()) * (1 + health.diverging):
        return None
    return f"the weights hardly move: after {evidence.step} steps the loss is still {share:.2f} of the mean-predictor's"


def rate_too_high(evidence: Evidence, health: HealthParams) -> str | None:
    mean = evidence.newest(names.MEAN_LOSS)
    if not mean or evidence.step < 2 * evidence.window or not _jumped(evidence, health):
        return None
    if float(evidence.recent().mean()) / mean < 1 - health.learned_nothing:
        return None  # it has come back
    peak = float(evidence.history.losses(0, evidence.step).max())
    return f"the loss jumped to {peak:.3g} and has not come back below the mean-predictor's"


def diverging(evidence: Evidence, health: HealthParams) -> str | None:
    losses = evidence.history.losses(0, evidence.step)
    width = evidence.window
    if len(losses) < 2 * width:
        return None
    means = np.convolve(losses[:-width], np.full(width, 1 / width), mode="valid")
    lowest = int(means.argmin())
    recent = losses[-width:]
    rise = float(recent.mean()) / max(float(means[lowest]), 1e-12) - 1
    if rise < health.diverging or not differ(recent, losses[lowest : lowest + width]):
        return None
    return f"the loss rises: it is {100 * rise:.0f} % above its lowest mean, that of step {lowest + width}"


def plateau(evidence: Evidence, health: HealthParams) -> str | None:
    """Not in the last fifth, where the learning rate itself comes to rest."""
    tenth = evidence.steps // 10
    begin = max(evidence.warmup, round(health.judge_from * evidence.steps))
    mean = evidence.newest(names.MEAN_LOSS)
    if tenth < LEAST_STEPS or not begin + 2 * tenth <= evidence.step <= 0.8 * evidence.steps or not mean:
        return None
    before = evidence.history.losses(evidence.step - 2 * tenth, evidence.step - tenth)
    now = evidence.history.losses(evidence.step - tenth, evidence.step)
    fall = 1 - float(now.mean()) / max(float(before.mean()), 1e-12)
    share = float(now.mean()) / mean
    if not -health.diverging < fall < health.plateau or may_fall(before, now, health.plateau):
        return None
    if share > 1 - health.learned_nothing:
        return None  # said by the others
    where = f"at {share:.3f} of the mean-predictor's"
    return f"the loss no longer falls: {100 * fall:.2f} % in the last {tenth} steps, {where}"


def collapse(evidence: Evidence, health: HealthParams) -> str | None:
    ranks = [(look.step, look.metrics[names.RANK_ME]) for look in evidence.looks if names.RANK_ME in look.metrics]
    trained = [rank for step, rank in ranks if step >= evidence.warmup and step > 0]
    highest = max(trained, default=0.0)
    if len(trained) > 1 and 1 - trained[-1] / highest >= health.rank_drop:
        return f"the features collapse: RankMe fell from {highest:.1f} to {trained[-1]:.1f}"
    spreads = (
        [evidence.looks[-1].metrics.get(name) for name in (names.DEVIATION, names.HELDOUT_DEVIATION)]
        if evidence.looks
        else []
    )
    deviation = min((spread for spread in spreads if spread is not None), default=1.0)
    if deviation < COLLAPSED:
        return f"the features collapse: all clips have nearly one (deviation {deviation:.1e}, 1 is evenly spread)"
    newest = evidence.looks[-1].metrics if evidence.looks and evidence.looks[-1].step > evidence.warmup else {}
    entropies = [value for name, value in newest.items() if name.startswith(names.ATTENTION_ENTROPY)]
    if entropies and min(entropies) < health.attention_collapse:
        return f"attention collapses: in one block each token looks at one other (entropy {min(entropies):.3f} of 1)"
    return None


#: Deviation of features of length 1, times sqrt(D), below which all clips have one feature.
COLLAPSED = 1e-3


def gradient_off(evidence: Evidence, health: HealthParams) -> str | None:
    width = evidence.window
    begin = max(evidence.warmup, evidence.step - 10 * width)
    if evidence.step - begin < 4 * width:
        return None
    before = float(np.median(evidence.history.norms(begin, evidence.step - width)))
    now = float(np.median(evidence.history.norms(evidence.step - width, evidence.step)))
    factor = now / max(before, 1e-30)
    if 1 / health.gradient_range < factor < health.gradient_range:
        return None
    earlier = evidence.step - width - begin
    return f"the gradient's norm is {now:.3g}, {factor:.3g} times its median of the {earlier} steps before"


def loader_bound(evidence: Evidence, health: HealthParams) -> str | None:
    facts = evidence.facts
    if facts is None or facts.steps < FEWEST_STEPS or facts.loader < health.loader_wait:
        return None
    return f"{100 * facts.loader:.0f} % of a step is waiting for clips"


def slow_rank(evidence: Evidence, health: HealthParams) -> str | None:
    facts = evidence.facts
    if facts is None or len(facts.own) < 2 or facts.steps < FEWEST_STEPS:
        return None
    slowest = int(np.argmax(facts.own))
    # The slowest does not count among the others: of two ranks it would be half of the median.
    others = float(np.median([own for rank, own in enumerate(facts.own) if rank != slowest]))
    factor = facts.own[slowest] / max(others, 1e-9)
    if factor < health.slow_rank:
        return None
    return f"rank {slowest} takes {factor:.1f} times as long as the others for its own part of a step"


def bad_clips(evidence: Evidence, health: HealthParams) -> str | None:
    kinds = {names.CONSTANT_CLIPS: "of one colour", names.STILL_CLIPS: "still", names.TWICE: "there twice"}
    found = [(evidence.newest(name), word) for name, word in kinds.items()]
    words = [
        f"{100 * share:.0f} % are {word}" for share, word in found if share is not None and share > health.bad_clips
    ]
    return f"clips that teach little: of those looked at {', '.join(words)}" if words else None


def other_targets(evidence: Evidence, health: HealthParams) -> str | None:
    own = evidence.newest(names.OWN_TARGETS)
    if own is None or own >= health.own_targets:
        return None
    return (
        "the loss compares what is predicted with something else than the clip's own tokens: it pulls predictions "
        f"towards them with a cosine of {own:.2f} (1 is right)"
    )


def memory_full(evidence: Evidence, health: HealthParams) -> str | None:
    facts = evidence.facts
    if facts is None or facts.memory < health.memory:
        return None
    return f"{100 * facts.memory:.0f} % of the memory is taken"


def by_heart(evidence: Evidence, health: HealthParams) -> str | None:
    """The loss falls on the training's clips, and not on others."""
    late = [
        look for look in evidence.looks if look.step >= PATIENCE * evidence.steps and names.LOSS_SHARE in look.metrics
    ]
    mean = evidence.newest(names.MEAN_LOSS)
    if not late or not mean or not evidence.judged(health):
        return None
    recent = evidence.recent()
    share, error = float(recent.mean()) / mean, float(recent.std(ddof=1)) / len(recent) ** 0.5 / mean
    others = late[-1].metrics[names.LOSS_SHARE]
    if others < 1 - health.learned_nothing or others - share < max(health.learned_nothing, ERRORS * error):
        return None
    return (
        f"what is learned holds for the training's clips alone: the loss is {share:.3f} of the mean-predictor's there, "
        f"{others:.3f} on other clips (step {late[-1].step})"
    )


def overfits(evidence: Evidence, health: HealthParams) -> str | None:
    """The same probe, on clips that were pre-trained on and on others: only the encoder can tell them apart."""
    kinds = (names.RIDGE_SEEN, names.RIDGE), (names.RIDGE_SEEN_MAP, names.RIDGE_MAP)
    for (corpus, clips), probes in product(evidence.probed.items(), kinds):
        seen, other = (names.monitor_of(probe, corpus) for probe in probes)
        pairs = [(look.metrics[seen], look.metrics[other]) for look in evidence.looks if seen in look.metrics]
        if not clips.unseen or len(pairs) < 2:
            continue
        gaps = [on_seen - on_other for on_seen, on_other in pairs]
        variance = sum(p * (1 - p) / n for p, n in zip(pairs[-1], (clips.fitted, clips.scored), strict=True))
        if gaps[-1] - max(gaps[0], 0.0) > max(health.overfit, ERRORS * variance**0.5):
            return (
                f"the probe on {corpus} is {100 * gaps[-1]:.0f} points better on videos of the pre-training than on "
                f"others, {100 * (gaps[-1] - gaps[0]):.0f} more than before it"
            )
    return None


def _jumped(evidence: Evidence, health: HealthParams) -> bool:
    """Whether the loss was once well above its start, in the mean of four steps."""
    losses = evidence.history.losses(0, evidence.step)
    if len(losses) < 2 * LEAST_STEPS:
        return False
    smooth = np.convolve(losses, np.full(4, 0.25), mode="valid")
    return float(smooth.max()) > (1 + 2 * health.diverging) * float(losses[:4].mean())


#: In the order in which alarms are told: what explains others comes first.
RULES = (
    Rule(
        "bad-clips", bad_clips,
        "a source that stands still, blank videos, or copies of one video in the list",
        "look at them (`everest show`), and leave them out of the list of videos",
    ),
    Rule(
        "other-targets", other_targets,
        "targets of another clip of the batch or of other tokens: a change of the autoencoder, of a strategy's indices",
        "stop: nothing that lasts can be learned; compare `EverestAutoencoder.compare` with what its loss is given",
    ),
    Rule(
        "rate-too-high", rate_too_high,
        "the learning rate is too high",
        "lower pretrain.base_lr to a third, or lengthen warmup_epochs",
    ),
    Rule(
        "diverging", diverging,
        "the learning rate is too high, or a few batches have pushed the weights away",
        "start again from an earlier checkpoint with a lower pretrain.base_lr, or set pretrain.clip_grad",
    ),
    Rule(
        "rate-too-low", rate_too_low,
        "the learning rate is too low for so few steps, or clip_grad holds it back",
        "raise pretrain.base_lr tenfold, or shorten warmup_epochs",
    ),
    Rule(
        "learned-nothing", learned_nothing,
        "too few steps, a learning rate that does not fit, or textures that cannot be foretold",
        "more steps (epochs, or a smaller batch), another base_lr, or a smaller clip.resolution",
    ),
    Rule(
        "plateau", plateau,
        "the network has learned what this learning rate and these clips can teach it",
        "end here and fine-tune, shorten pretrain.epochs so that the rate falls sooner, or take more videos",
    ),
    Rule(
        "collapse", collapse,
        "the encoder gives different clips the same features",
        "lower pretrain.base_lr, look at the clips, or lower visible_ratio so that the decoder needs the encoder",
    ),
    Rule(
        "gradient-norm", gradient_off,
        "a batch unlike the others, or a rate at which training is no longer stable",
        "set pretrain.clip_grad to about the norm of before, or lower pretrain.base_lr",
    ),
    Rule(
        "by-heart", by_heart,
        "too few videos for so many steps: the network knows them by heart",
        "more videos, fewer pretrain.epochs, or smaller crops (pretrain.scales)",
    ),
    Rule(
        "overfit", overfits,
        "the encoder knows its own videos by heart",
        "more videos, fewer pretrain.epochs, or smaller crops (pretrain.scales)",
    ),
    Rule(
        "loader-bound", loader_bound,
        "clips are read more slowly than they are trained on",
        "raise compute.loader_workers, or preprocess.store: raw; `everest bench loader` measures it",
    ),
    Rule(
        "slow-rank", slow_rank,
        "another process, a throttled device or a slower disk on that rank's machine",
        "see what else runs there (`nvidia-smi`, `top`); all ranks wait for the slowest",
    ),
    Rule(
        "memory", memory_full,
        "batch, or what else runs on this machine",
        "raise pretrain.accumulate, or set compute.activation_checkpointing",
    ),
)  # fmt: skip
