"""A small benchmark with its cache and corpus in the current folder, ready to train on."""

from __future__ import annotations

from typing import Any

import small_benchmark

from pipeline.params import Params
from pipeline.stages import corpus, preprocess


def ready(count: int = 24, **overrides: Any) -> Params:
    """Write `count` videos, cache and corpus; returns the parameters."""
    shorter = {
        "pretrain__epochs": 2,
        "pretrain__checkpoint_every_steps": 2,
        "finetune__epochs": 2,
        "finetune__validate_split": "test",
        "finetune__validate_every_epochs": 1,
        "finetune__checkpoint_every_steps": 2,
        "finetune__label_fraction": 1.0,  # the few videos there are
        "compute__ranks": 1,
    }
    params = small_benchmark.params(**(shorter | overrides))
    small_benchmark.make(count)
    preprocess.run(params, "small")
    corpus.run(params, "small")
    return params
