"""The group `pretrain.monitor`: what looks at a pre-training while it runs, how often, and when it raises an alarm.

Nothing here changes what is trained. Params of runs before the monitor was known have none: all defaults are those of a
monitor that is off, with the thresholds of the recipes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.parts.kinds import Group, Positive, Probability, Ratio


class HealthParams(Group):
    """Thresholds of the rules of `pipeline.monitor.rules`; docs/monitoring.md says why each has its value.

    Attributes:
        judge_from: share of the steps before which nothing is said of what was learned, nor before the warm-up's end.
        learned_nothing: a loss that is not below the mean-predictor's by this share.
        plateau: a fall of the loss, as a share, over a tenth of the steps below which it no longer falls.
        rank_drop: share of its highest value that RankMe has lost.
        attention_collapse: entropy of a block's attention, as a share of its maximum, below which it has collapsed.
        diverging: rise of the loss over its lowest mean, as a share.
        gradient_range: factor between the gradient's norm and its median of before.
        loader_wait: share of a step's time that waits for clips.
        slow_rank: a rank's own time over the ranks' median.
        bad_clips: share of clips that are constant, stand still or are there twice.
        memory: share of the memory that is taken.
        own_targets: cosine between where the loss pulls predictions and the clip's own tokens, 1 where all is well.
        overfit: by how much the ridge probe is better on trained videos than on others, in points of 1.
    """

    judge_from: Probability = 0.05
    learned_nothing: Probability = 0.03
    plateau: Probability = 0.002
    rank_drop: Probability = 0.5
    attention_collapse: Probability = 0.03
    diverging: Positive = 0.05
    gradient_range: Annotated[float, Field(gt=1, le=1e6)] = 10.0
    loader_wait: Probability = 0.4
    slow_rank: Annotated[float, Field(gt=1, le=1e6)] = 1.5
    bad_clips: Probability = 0.1
    memory: Ratio = 0.95
    overfit: Probability = 0.15
    own_targets: Probability = 0.9


class MonitorParams(Group):
    """How often the monitor looks, at how much.

    Attributes:
        unit, every: a look after every so many epochs or minutes; `off` never.
        max_cost: share of the training's time that looks may take; they come more rarely where they would take more.
        heldout_clips: of all corpora together, for the reconstruction.
        feature_clips: of each corpus, for the probes and the rank: two thirds to fit on, one third to score.
        benchmarks: corpora whose labels the probes may read; null: all that have labels.
    """

    unit: Literal["epochs", "minutes", "off"] = "off"
    every: Positive = 1.0
    max_cost: Ratio = 0.02
    heldout_clips: Annotated[int, Field(ge=2, le=100_000)] = 64
    feature_clips: Annotated[int, Field(ge=6, le=1_000_000)] = 1000
    benchmarks: list[str] | None = None
    health: HealthParams = Field(default_factory=HealthParams)
