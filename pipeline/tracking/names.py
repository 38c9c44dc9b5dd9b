"""The names of metrics, each spelled here alone: the same on MLflow, in metrics files, for DVC and in the report.

Whoever measures names its numbers by these, whoever compares or shows them looks them up by these; a test holds that
no other module spells one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

TRAIN_LOSS, TRAIN_LR, TRAIN_GRAD_NORM = "train/loss", "train/lr", "train/grad_norm"
TRAIN_STEPS, TRAIN_NONFINITE_STEPS = "train/steps", "train/nonfinite_steps"
VAL_LOSS, VAL_TOP1, VAL_TOP5 = "val/loss", "val/top1", "val/top5"
#: Mean average precision, where videos have several classes each: in the place of top-1.
VAL_MAP = "val/map"
EVAL_MAP, EVAL_MAP_LOW, EVAL_MAP_HIGH = "eval/map", "eval/map_ci_low", "eval/map_ci_high"
#: Of the decisions at one half, all classes and videos together; the share of videos with all decisions right.
EVAL_F1, EVAL_EXACT = "eval/f1", "eval/exact_match"
#: Factor on the learning rate of the probe's head that won.
VAL_PROBE_LR_FACTOR = "val/probe_lr_factor"
EVAL_TOP1, EVAL_TOP1_LOW, EVAL_TOP1_HIGH = "eval/top1", "eval/top1_ci_low", "eval/top1_ci_high"
EVAL_TOP5, EVAL_CLASS_MEAN, EVAL_CALIBRATION_ERROR = "eval/top5", "eval/class_mean", "eval/calibration_error"
EVAL_VIDEOS_OK, EVAL_VIDEOS_TOTAL = "eval/videos_ok", "eval/videos_total"
#: Of the best trivial model.
BASELINE_BEST = "baseline/best"
DATA_VIDEOS_OK, DATA_VIDEOS_TOTAL = "data/videos_ok", "data/videos_total"


def efficiency(name: str) -> str:
    """What was spent, by its name in tables (`wall_seconds`)."""
    return f"efficiency/{name}"


def baseline(model: str) -> str:
    """Top-1 of a trivial model, or its mean average precision where videos have several classes each."""
    return f"baseline/{model}"


def part_seconds(part: str) -> str:
    """[s] of a part of a training step (`loader`), or of all of it (`whole`)."""
    return f"step/{part}_seconds"


def monitor(name: str) -> str:
    """What a look at a pre-training found (`heldout_loss`)."""
    return f"monitor/{name}"


def monitor_of(probe: str, corpus: str) -> str:
    """A probe's score on a corpus: of one of `PROBES`."""
    return monitor(f"{probe}/{corpus}")


def attention_entropy(block: int) -> str:
    """Of a block of the encoder, from 0."""
    return f"{ATTENTION_ENTROPY}{block:02d}"


def by_gmacs(name: str) -> str:
    """The same numbers with [G multiply-adds] spent in place of the step, for charts of several runs.

    Their group comes behind the costs: MLflow's comparison draws its first rows only.
    """
    return name.replace("/", "_by_gmacs/", 1)


ATTENTION_ENTROPY = monitor("attention_entropy/")
#: Loss on clips that are not trained on; of predicting the mean; of copying a visible neighbour; against another clip.
HELDOUT_LOSS, MEAN_LOSS, COPY_LOSS = monitor("heldout_loss"), monitor("mean_loss"), monitor("copy_loss")
SWAPPED_LOSS = monitor("swapped_loss")
#: The first of them over the second.
LOSS_SHARE = monitor("loss_share")
#: Shares of training clips of one colour, that stand still, that are there twice.
CONSTANT_CLIPS, STILL_CLIPS, TWICE = monitor("constant_clips"), monitor("still_clips"), monitor("clips_twice")
#: Spread of the features of a few held-out clips, at every look; rank and spread of all clips, at long ones.
HELDOUT_DEVIATION = monitor("heldout_deviation")
RANK_ME, DEVIATION, UNIFORMITY = monitor("rankme"), monitor("feature_deviation"), monitor("uniformity")
#: Cosine between where the loss pulls predictions and the clip's own tokens.
OWN_TARGETS = monitor("own_targets")
ENCODER_GRADIENT, GMACS_SPENT = monitor("encoder_gradient_share"), monitor("gmacs_spent")
#: Probes: top-1, and mean average precision on videos with several classes each; `seen`: on videos of the pre-training.
KNN, RIDGE, RIDGE_SEEN = "knn", "ridge", "ridge_seen"
KNN_MAP, RIDGE_MAP, RIDGE_SEEN_MAP = "knn_map", "ridge_map", "ridge_seen_map"
#: Those of unseen videos, as people call them.
PROBES = {RIDGE: "ridge", KNN: "k-NN", RIDGE_MAP: "ridge, mAP", KNN_MAP: "k-NN, mAP"}

GMACS_PER_CLIP, TOKENS_PER_CLIP = efficiency("gmacs_per_clip"), efficiency("tokens_per_clip")
PEAK_MEMORY_GIB, ENERGY_WH = efficiency("peak_memory_gib"), efficiency("energy_wh")
#: Time and share of the training's time that looks took.
MONITOR_SECONDS, MONITOR_FRACTION = efficiency("monitor_seconds"), efficiency("monitor_fraction")
WALL_SECONDS, CLIPS_PER_SECOND = efficiency("wall_seconds"), efficiency("clips_per_second")

#: Beginnings of measured costs, and of what depends on them: they differ from run to run; all else has to be equal.
MEASURED = (efficiency(""), "step/", monitor(""), by_gmacs(monitor("")))
#: Beginnings of the scores and of the loss.
RESULTS = ("eval/", "val/", TRAIN_LOSS)
#: Columns of history.csv. They are not the names above: finished runs, their plots and their readers have these.
HISTORY_COLUMNS = {
    TRAIN_LOSS: "loss",
    TRAIN_LR: "lr",
    TRAIN_GRAD_NORM: "grad_norm",
    VAL_LOSS: "val_loss",
    VAL_TOP1: "val_top1",
    VAL_TOP5: "val_top5",
}
#: A column behind those of the histories of videos with several classes each; no other history has it.
SEVERAL_COLUMNS = {VAL_MAP: "val_map"}
COLUMN_OF = HISTORY_COLUMNS | SEVERAL_COLUMNS
#: What a benchmark is compared by, best first: score, its interval, how validation names it, and what people call it.
SCORES = (
    (EVAL_TOP1, EVAL_TOP1_LOW, EVAL_TOP1_HIGH, VAL_TOP1, "top-1"),
    (EVAL_MAP, EVAL_MAP_LOW, EVAL_MAP_HIGH, VAL_MAP, "mAP"),
)


class Score(NamedTuple):
    """What a test is compared by: a share with its 95 % interval, and what people call it."""

    value: float
    low: float
    high: float
    called: str


def score_of(metrics: Mapping[str, float]) -> Score | None:
    """Top-1 of a test, or its mean average precision where videos have several classes; None where it has neither."""
    for value, low, high, _, called in SCORES:
        if value in metrics:
            return Score(metrics[value], metrics.get(low, metrics[value]), metrics.get(high, metrics[value]), called)
    return None


def validation_score(metrics: Mapping[str, float]) -> float | None:
    """What chooses a checkpoint and ends a training: top-1 of a validation, or its mean average precision."""
    return next((metrics[name] for *_, name, _ in SCORES if name in metrics), None)


def of_experiment(stage: str, benchmark: str | None, metrics: Mapping[str, float]) -> dict[str, float]:
    """A stage's metrics under their names on the experiment's run: `motion/finetune/train/loss`, `motion/eval/top1`."""
    parts = (benchmark, None if stage == "evaluate" else stage)
    prefix = "".join(f"{part}/" for part in parts if part)
    return {f"{prefix}{name}": value for name, value in metrics.items()}
