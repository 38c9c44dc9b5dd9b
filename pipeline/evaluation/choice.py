"""What the registry's alias `best` is chosen by: validation only, on a split whose score is not the reported one.

How a model came to be is read from its own model.json, not from parameters that may have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline import layout
from pipeline.tracking.names import validation_score


def score_to_choose_by(info: Mapping[str, Any], benchmark: str, reported: str) -> tuple[float | None, str]:
    """(validation top-1 or mAP, "") of the fine-tuned model, or None and the reason why nothing may be chosen by it.

    Args:
        info: its model.json.
        reported: the split that it is evaluated on.
    """
    chosen = info.get("validate_split")
    if chosen is None:
        return None, "the model does not say which split validated it"
    if chosen == reported:
        return None, (
            f"finetune.validate_split and evaluate.split are both {reported}: what chooses a model must not be what "
            "its score is reported on"
        )
    if chosen == "test":
        return None, "finetune.validate_split is test, which chooses nothing"
    path = layout.results_file(
        "finetune", benchmark
    )  # not the headline in metrics/, which DVC brings to no other checkout
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    score = validation_score(metrics)
    return (float(score), "") if isinstance(score, int | float) else (None, f"{path} has no validation score")


def chosen_by_reported_split(info: Mapping[str, Any], reported: str) -> str:
    """What of the model was chosen by the split that its score is reported on; empty where nothing was."""
    if info.get("validate_split") != reported:
        return ""
    choices = {"the checkpoint": info.get("select") == "best", "the probe's head": bool(info.get("frozen"))}
    return " and ".join(name for name, true in choices.items() if true)
