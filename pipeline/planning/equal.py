"""Comparing fairly: which strategies, trained for how long, so that all cost the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.params import SCRATCH, Overrides, Params, arm_overrides, compared_strategies, with_overrides
from pipeline.planning.stage_cost import StageCost


@dataclass(frozen=True)
class Trial:
    """One training of the comparison.

    Attributes:
        arm, seed: the strategy's name and the seed of everything random.
        gmacs_per_clip: [G multiply-adds] of one pre-training forward of one clip; 0 without pre-training.
        folder: where it is trained, once that is settled.
    """

    arm: str
    seed: int
    params: Params
    gmacs_per_clip: float
    folder: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def benchmarks(self) -> list[str]:
        return self.params.compared_benchmarks()

    @property
    def corpora(self) -> list[str]:
        """That it pre-trains on; none from scratch."""
        return [] if self.params.finetune.init == SCRATCH else self.params.pretrain.corpus

    @property
    def epochs(self) -> int:
        """Of pre-training."""
        return self.params.pretrain.epochs if self.gmacs_per_clip else 0

    @property
    def pretrain_gmacs(self) -> float:
        """[G multiply-adds] of all its pre-training forwards, for one clip of the corpus."""
        return self.gmacs_per_clip * self.epochs * self.params.pretrain.repeated_augmentation


def _overrides(name: str) -> Overrides:
    overrides = arm_overrides(name)
    if overrides is None:
        raise InputError(f"strategy {name!r} is unknown. Cure: use some of {', '.join(compared_strategies())}.")
    return overrides


def arms_of(params: Params) -> dict[str, Params]:
    """Strategy -> its parameters, before its epochs are set. All but `scratch` start from their own pre-training."""
    return {
        arm: with_overrides(params, {"finetune.init": "outputs/pretrain", **_overrides(arm)})
        for arm in params.compare.strategies
    }


def plan(params: Params, rates: Mapping[str, float] | None = None) -> list[Trial]:
    """The trainings of the comparison that `params.compare` describes: every strategy with every seed.

    The first strategy that pre-trains does so for pretrain.epochs, the others for as many epochs as cost the same,
    at least one.

    Args:
        rates: [clips/s] of each strategy's pre-training, for equal wall time; see :func:`training_rate`.

    Raises:
        InputError: no rate where one is needed, or an override that does not fit.
    """
    params.compared_benchmarks()  # refuses unknown ones now, not after the first training
    arms = arms_of(params)
    costs = {
        arm: 0.0 if trained.finetune.init == SCRATCH else StageCost(trained).cost.multiply_adds / 1e9
        for arm, trained in arms.items()
    }
    first = next((arm for arm in arms if costs[arm]), None)
    trials = []
    for arm in arms:
        epochs = params.pretrain.epochs
        if first is not None and costs[arm] and params.compare.equal == "multiply-adds":
            epochs = max(1, round(epochs * costs[first] / costs[arm]))
        elif first is not None and costs[arm] and params.compare.equal == "wall-time":
            if rates is None or arm not in rates:
                raise InputError(f"no measured rate of {arm!r}: equal wall time needs one of each strategy.")
            epochs = max(1, round(epochs * rates[arm] / rates[first]))
        for seed in params.compare.seeds:
            trained = with_overrides(arms[arm], {"pretrain.epochs": epochs, "seed": seed})
            trials.append(Trial(arm, seed, trained, costs[arm]))
    return trials


def training_rate(params: Params, seconds: float = 2.0) -> float:
    """[clips/s] of forward, backward and update of the pre-training model on this machine, without loading data."""
    from pipeline.distributed.groups import choose_device
    from pipeline.planning.rate import clips_per_second

    cost, stage = StageCost(params), params.pretrain
    clips = max(1, min(32, stage.batch // stage.accumulate))
    device = choose_device(params.compute.device)
    return clips_per_second(*cost.model, cost.shape, clips, stage.precision, device, seconds)
