"""AdaMAE: a small network learns which tokens to show, those that are hard to rebuild from others.

A transformer block over all embedded tokens, a linear map and a softmax give each token's probability; the visible ones
are drawn without replacement in proportion to it, all others are rebuilt. The network is taught by a policy gradient:
what it raises is the expected error, log-probability times error of each rebuilt token. No gradient of that reaches the
autoencoder, and none of the reconstruction reaches the network.

Checked against the abstract (arXiv 2211.09120) and the authors' code (github.com/wgcban/adamae, commit 0700d63: block,
draw, loss and `WEIGHT` in models/pretrain/vit.py and msc/engine_for_pretraining.py, 95 % hidden in readme/PRETRAIN.md);
not checked against the paper's sections. Ours differs: positions are the encoder's fixed ones, where theirs are learned
for the network alone; as many heads as the encoder has (theirs 8); no dropout (theirs 0.1).

Shapes: B clips, N tokens, V visible, R reconstructed, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.selection import Budget, Grid, TokenSplit
from models.strategies.base import Strategy
from models.strategies.random import random_budget
from models.vit import Block, xavier_init

#: Of the sampling loss in the sum of both (the authors' code). AdamW takes the same steps at any weight; it keeps the
#: lesson from the norm by which gradients are clipped.
WEIGHT = 1e-4


class Sampler(nn.Module):
    """Log-probabilities [B, N] of tokens [B, N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.block = Block(width, heads)
        self.score = nn.Linear(width, 1)
        self.apply(xavier_init)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        score_BN: Tensor = self.score(self.block(tokens_BND))[..., 0]
        return score_BN.float().log_softmax(dim=1)


def drawn_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """Draw the visible tokens without replacement, in proportion to their probabilities; rebuild the others.

    An exponential race, as in `models.frames.draw_slots`, in logarithms.
    """
    wait_BN = (-torch.log1p(-noise_BN.double())).clamp(min=1e-30).log() - scores_BN.detach().double()
    order_BN = wait_BN.argsort(dim=1)
    return TokenSplit(order_BN[:, : budget.visible], order_BN[:, budget.visible :])


def sampling_loss(scores_BN: Tensor, reconstruct_BR: Tensor, error_BR: Tensor) -> Tensor:
    """Minus the expected error of the rebuilt tokens, of which only the probabilities have a gradient."""
    return -WEIGHT * (scores_BN.gather(1, reconstruct_BR) * error_BR.detach()).mean()


def sampler_multiply_adds(grid: Grid, width: int) -> int:
    """A block over all tokens and the linear map."""
    return 12 * grid.tokens * width**2 + 2 * grid.tokens**2 * width + grid.tokens * width


STRATEGY = Strategy(
    name="adamae",
    sentence="shows tokens that a small network draws, which learns to draw those that are hard to rebuild",
    source="AdaMAE, Bandara et al., CVPR 2023 (arXiv 2211.09120)",
    ratios=(1.0, 0.05),
    split=drawn_split,
    budget=random_budget,
    sampler=Sampler,
    loss=sampling_loss,
    extra_multiply_adds=sampler_multiply_adds,
)
