"""Comparing fairly: which strategies, trained for how long, so that all cost the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.geometry import autoencoder_arguments, pretrain_cost
from pipeline.params import SCRATCH, Params, check_params

Equal = Literal["multiply-adds", "wall-time", "epochs"]

#: Baselines see the clip as it comes: information-intensive frame selection is EVEREST's.
_PLAIN = {"pretrain.keep_ratio": 1.0, "pretrain.frame_selection.mode": "none"}
#: Name -> overrides of params.yaml. Fine-tuning is the same for all, so that only the pre-training differs.
ARMS: dict[str, dict[str, Any]] = {
    "everest": {"pretrain.strategy": "everest"},
    "everest-all-frames": {"pretrain.strategy": "everest", "pretrain.frame_selection.mode": "none"},
    "tube": {"pretrain.strategy": "tube", **_PLAIN},
    "random": {"pretrain.strategy": "random", **_PLAIN},
    "running-cell": {"pretrain.strategy": "running_cell", "pretrain.frame_selection.mode": "none"},
    "scratch": {"finetune.init": SCRATCH},
}


@dataclass(frozen=True)
class Trial:
    """One training of the comparison. `pretrain_gmacs`: [G multiply-adds] of all its pre-training forwards, a clip of
    the corpus counted once an epoch.
    """

    arm: str
    seed: int
    params: Params
    gmacs_per_clip: float
    pretrain_gmacs: float


def arm_overrides(name: str) -> dict[str, Any]:
    """Overrides of one strategy; `everest-keep-0.4` is EVEREST with another share of kept tokens.

    Raises:
        InputError: an unknown name.
    """
    if name in ARMS:
        return ARMS[name]
    head, _, ratio = name.rpartition("-keep-")
    try:
        return {**ARMS[head], "pretrain.keep_ratio": float(ratio)}
    except (KeyError, ValueError):
        raise InputError(
            f"strategy {name!r} is unknown. Cure: use some of {', '.join(ARMS)}, or everest-keep-0.4 for another ratio."
        ) from None


def with_overrides(params: Params, overrides: Mapping[str, Any]) -> Params:
    """Parameters with dotted keys replaced, checked again."""
    raw = params.model_dump(mode="json")
    for key, value in overrides.items():
        *groups, last = key.split(".")
        node = raw
        for group in groups:
            node = node[group]
        node[last] = value
    return check_params(raw, "comparison")


def clip_cost(params: Params) -> float:
    """[G multiply-adds] of one pre-training forward of one clip."""
    return pretrain_cost(params).multiply_adds / 1e9


def plan(
    params: Params,
    arms: Sequence[str],
    seeds: Sequence[int],
    equal: Equal = "multiply-adds",
    rates: Mapping[str, float] | None = None,
) -> list[Trial]:
    """The trainings of a comparison: every strategy with every seed.

    The first strategy trains for pretrain.epochs; the others for as many epochs as cost the same, at least
    one.

    Args:
        rates: [clips/s] of each strategy's pre-training, needed for equal wall time; see :func:`training_rate`.

    Raises:
        InputError: an unknown or repeated strategy, no seed, or no rates.
    """
    if len(set(arms)) != len(arms) or not arms or not seeds or len(set(seeds)) != len(seeds):
        raise InputError(
            f"strategies {list(arms)}, seeds {list(seeds)}: each must be named once. Cure: mend the lists."
        )
    chosen = {arm: with_overrides(params, arm_overrides(arm)) for arm in arms}
    costs = {arm: 0.0 if p.finetune.init == SCRATCH else clip_cost(p) for arm, p in chosen.items()}
    first = next((arm for arm in arms if costs[arm]), None)
    trials = []
    for arm in arms:
        epochs = params.pretrain.epochs
        if first is not None and costs[arm] and equal == "multiply-adds":
            epochs = max(1, round(epochs * costs[first] / costs[arm]))
        elif first is not None and costs[arm] and equal == "wall-time":
            if rates is None or arm not in rates:
                raise InputError(f"no measured rate of {arm!r}: equal wall time needs one of each strategy.")
            epochs = max(1, round(epochs * rates[arm] / rates[first]))
        for seed in seeds:
            changes = {"pretrain.epochs": epochs, "seed": seed}
            own = with_overrides(chosen[arm], changes)
            trials.append(Trial(arm, seed, own, costs[arm], costs[arm] * epochs))
    return trials


def training_rate(params: Params, seconds: float = 2.0) -> float:
    """[clips/s] of forward, backward and update of the pre-training model on this machine, without loading data."""
    from models.registry import architecture
    from pipeline.training.distributed import choose_device
    from pipeline.training.rate import clips_per_second

    stage, clip = params.pretrain, params.clip
    return clips_per_second(
        architecture(stage.size, pretrain=True),
        autoencoder_arguments(stage, clip),
        (clip.frames, clip.resolution),
        max(1, min(32, stage.batch // stage.accumulate)),
        stage.precision,
        choose_device(params.compute.device),
        seconds,
    )
