"""Run-length tokens, then EVEREST: of the tokens that begin a run, those that change most.

A composition of ours: runs cost no budget, and a clip that has fewer tokens than keep_ratio allows keeps fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Grid, top_tokens
from models.strategies.base import Strategy
from models.strategies.everest import everest_budget, everest_split
from models.strategies.rlt import begins_run, pixel_changes

#: Score of a token that changed by nothing measurable but begins a run: above 0, which means that it does not.
LEAST = 1e-12


def changes_of_runs(tubelets_BNP: Tensor, scores_BN: Tensor, grid: Grid) -> Tensor:
    """The ReRo scores [B, N] of tokens that begin a run, 0 for the others."""
    begins_BN = begins_run(pixel_changes(tubelets_BNP, scores_BN, grid))
    return torch.where(begins_BN, scores_BN.clamp(min=LEAST), 0.0)


def has_score(scores_BN: Tensor) -> Tensor:
    """Which tokens begin a run."""
    return scores_BN > 0


STRATEGY = Strategy(
    name="rlt_everest",
    sentence="drops tokens that equal the one before them, and of the others keeps those that change most",
    source="RLT (arXiv 2411.05222) before EVEREST (arXiv 2211.10636); the composition is ours",
    ratios=(0.3, 0.1),
    finetune_ratio=0.6,
    reads_scores=True,
    uses_keep_ratio=True,
    selects_frames=True,
    planned_as="everest",
    split=everest_split,
    budget=everest_budget,
    keep=top_tokens,
    score=changes_of_runs,
    begins=has_score,
)
