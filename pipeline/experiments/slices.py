"""Pre-trainings of a comparison side by side, in slices of their budget; those that cannot win any more are stopped.

`.work/compare/verdicts/<key>.json` keeps what the probes found after each slice, so that a comparison that was stopped
by hand goes on with the decisions that it has made. A finalist's pre-training is paused and continued exactly: its
result is that of a comparison without an early verdict, to the bit. What strategies share is pre-trained once, by the
first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from pipeline import layout
from pipeline.budget.meter import gpus_of
from pipeline.experiments.cells import cell, cells_root, is_past, pretraining, run_slice
from pipeline.params import Params
from pipeline.params.declared import values, versions_of
from pipeline.params.records import finished
from pipeline.planning.equal import Trial
from pipeline.system.files import read_json, write_json
from pipeline.verdict.record import CAUTION, Saved, Verdict
from pipeline.verdict.rule import Floats, Judgement, Scores, judge

#: Training -> benchmark -> how right its probe is on each clip, in [0, 1].
Looked = dict[str, dict[str, list[float]]]
#: Part of a file's name: files of another probe are not read.
PROBE = "knn-20-cosine-weighted"


class _Kept(TypedDict, total=False):
    """The file: what was seen after each slice, and the strategies that were pre-trained before the first."""

    looks: list[Looked]
    before: list[str]


def early_verdict(params: Params, trials: Sequence[Trial]) -> tuple[list[Trial], Verdict]:
    """Pre-train in slices and stop what cannot win; the trainings that are left, and what was seen.

    The first strategy, which all are compared with, and strategies that are pre-trained already, or further than the
    slice that is looked at, run in any case, and so do those that share a pre-training with one of them.

    Raises:
        EverestError, Interrupted: as for a cell; the same command continues.
    """
    from pipeline.system.terminal import say

    say(CAUTION)
    compare = params.compare
    racing = [trial for trial in trials if trial.epochs]
    path = _file(params, racing)
    known = cast(_Kept, read_json(path))
    kept = known.get("looks", [])
    before = known.get("before", [])
    if not kept:
        made = {shared(trial) for trial in racing if finished("pretrain", None, cell(trial))}
        before = sorted({trial.arm for trial in racing if shared(trial) in made})
    arms = [arm for arm in dict.fromkeys(trial.arm for trial in racing) if arm not in before]
    racing = [trial for trial in racing if trial.arm in arms]
    never_stopped = {shared(trial) for trial in racing if trial.arm == arms[0]}
    protected = {trial.arm for trial in racing if shared(trial) in never_stopped}
    judgements: list[Judgement] = []
    stopped: dict[str, int] = {}
    alive = racing
    for look in range(1, compare.slices):
        alive = [trial for trial in alive if trial.arm not in stopped]
        if len(kept) < look:
            alive = _not_past(alive, look / compare.slices)
        else:
            alive = [trial for trial in alive if trial.name in kept[look - 1]]
        if len({trial.arm for trial in alive}) < 2:
            break
        if len(kept) < look:
            kept.append(_slice(alive, look, compare.slices))
            write_json(path, {"looks": kept, "before": before})
        scores = [_scores(one, racing) for one in kept[:look]]
        judgements, stopped = judge(scores, compare.slices, compare.confidence, protected)
        for arm, when in stopped.items():
            if when == look:
                say(f"[{look}/{compare.slices}] {arm} cannot win any more: stopped")
    ended = _first_of_each([trial for trial in racing if trial.arm in stopped])
    saved = [
        _saved(arm, when, compare.slices, params, [trial for trial in ended.values() if trial.arm == arm])
        for arm, when in stopped.items()
    ]
    verdict: Verdict = {
        "confidence": compare.confidence,
        "slices": compare.slices,
        "judgements": judgements,
        "saved": saved,
    }
    return [trial for trial in trials if trial.arm not in stopped], verdict


def _not_past(alive: Sequence[Trial], share: float) -> list[Trial]:
    """The trainings of strategies that no comparison without an early verdict has brought further than this share.

    Probes of unequally long pre-trainings say nothing of strategies.
    """
    past = {shared(trial) for trial in alive if is_past(trial, share)}
    further = {trial.arm for trial in alive if shared(trial) in past}
    return [trial for trial in alive if trial.arm not in further]


def _slice(alive: Sequence[Trial], look: int, slices: int) -> Looked:
    """Bring each pre-training to the end of its slice, and look at it there."""
    from pipeline.verdict.probe import probe_scores

    looked: Looked = {}
    made = _first_of_each(alive)
    for trial in alive:
        if (first := made[shared(trial)]) is not trial:
            looked[trial.name] = looked[first.name]
            continue
        run_slice(trial, look / slices, note=f"[{look}/{slices}] {trial.arm}, seed {trial.seed}")
        work = pretraining(trial)
        looked[trial.name] = {}
        for benchmark in trial.benchmarks if work else ():
            scores = probe_scores(trial.params, Path(str(work)) / "checkpoints", benchmark)
            looked[trial.name][benchmark] = scores.tolist()
    return looked


def shared(trial: Trial) -> str:
    """The same for trainings whose pre-trainings are the same."""
    return layout.fingerprint(values("pretrain", None, trial.params))


def _first_of_each(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Pre-training -> the first training that has it."""
    return {shared(trial): trial for trial in reversed(trials)}


def _scores(looked: Looked, racing: Sequence[Trial]) -> Scores:
    """The seeds of each strategy together."""
    scores: dict[str, dict[str, Floats]] = {}
    for trial in racing:
        for benchmark, found in looked.get(trial.name, {}).items():
            row = np.asarray(found, dtype=np.float64)[None]
            before = scores.setdefault(trial.arm, {}).get(benchmark)
            scores[trial.arm][benchmark] = row if before is None else np.concatenate([before, row])
    return scores


def _saved(arm: str, look: int, slices: int, params: Params, trials: Sequence[Trial]) -> Saved:
    """What the rest of a strategy's pre-trainings would have taken, all seeds together; of shared ones the first's."""
    from pipeline.report.comparison import corpus_size
    from pipeline.status.history import read_history

    left = (slices - look) / slices
    clips = sum(corpus_size(name) for name in params.pretrain.corpus)
    hours: float | None = 0.0
    for trial in trials:
        work = pretraining(trial)
        history = read_history(work / "history.csv") if work else None
        steps = read_json(work / "length.json").get("steps") if work else None
        known = history is not None and history.rate and steps and hours is not None
        hours = hours + left * steps / history.rate / 3600 if known else None  # type: ignore[operator,union-attr]
    compute = params.compute
    gpus = gpus_of(compute, "pretrain")
    gpu_hours = None if hours is None or not gpus else hours * gpus
    return {
        "strategy": arm,
        "after": look / slices,
        "tmacs": left * sum(trial.pretrain_gmacs for trial in trials) * clips / 1000,
        "hours": hours,
        "eur": None if gpu_hours is None or compute.eur_per_gpu_hour is None else gpu_hours * compute.eur_per_gpu_hour,
    }


def _file(params: Params, racing: Sequence[Trial]) -> Path:
    """Named by everything that decides what the probes see, and what is made of it."""
    compare, trainings = params.compare, [(cell(trial).name, shared(trial)) for trial in racing]
    rule = [PROBE, compare.slices, compare.confidence, params.compared_benchmarks()]
    return cells_root() / "verdicts" / f"{layout.fingerprint([*rule, versions_of('evaluate'), trainings])}.json"
