"""No selection: every token is kept, in fine-tuning and testing."""

from __future__ import annotations

import torch
from torch import Tensor

from models.strategies.base import Strategy


def every_token(scores_BN: Tensor, num_keep: int) -> Tensor:
    """All indices [B, N] in order."""
    return torch.arange(num_keep, device=scores_BN.device).expand(len(scores_BN), -1)


STRATEGY = Strategy(
    name="none",
    sentence="keeps all tokens",
    source="VideoMAE, Tong et al., NeurIPS 2022 (arXiv 2203.12602)",
    finetune_ratio=1.0,
    keep=every_token,
)
