"""Token merging: each block joins the most similar tokens into means weighted by size.

Between attention and MLP the tokens are parted in turns into two sets; each of the first is matched with the most
similar of the second (cosine of the keys, their mean over heads), and the r best matches are joined into their mean by
size, which also weighs a token in the mean at the end. With "proportional attention" a token of size s counts s times
as a key: log s is added to its scores. The authors switch that off for masked autoencoders, which learn from fewer
tokens than there are, as all pre-training here does: `PROPORTIONAL`.

Checked against the authors' code (github.com/facebookresearch/ToMe, commit 049a705: tome/patch/timm.py and mae.py,
where "for MAE models, prop_attn should be set to false", in training and in testing); not checked against the sections
of arXiv 2210.09461. Sources of merged tokens are not traced. The paper names r; here keep_ratio says what share of the
tokens leaves the last block, and r follows from it.

Shapes: B clips, N tokens, A and C tokens of the two sets, R merged, D width, X heads, Y width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.strategies.base import Strategy
from models.strategies.none import every_token
from models.vit import Block, Blocks, attend, drop_path

#: Whether a token of size s is attended to as s copies of it would be.
PROPORTIONAL = False


def merges(tokens: int, left: int, depth: int) -> Iterator[tuple[int, int]]:
    """(tokens that enter, tokens merged) of each block: as even as whole numbers go, never above half."""
    for block in range(depth):
        merged = min(max(0, tokens - left) // (depth - block), tokens // 2)
        yield tokens, merged
        tokens -= merged


def merging_blocks(
    blocks: Blocks, x_BND: Tensor, left: int, proportional: bool = PROPORTIONAL
) -> tuple[Tensor, Tensor]:
    """Tokens [B, K, D] behind the last block, and how many each stands for [B, K]."""
    size_BN = x_BND.new_ones(x_BND.shape[:2], dtype=torch.float32)
    steps = list(merges(x_BND.shape[1], left, len(blocks)))
    for number, (block, (_, merged)) in enumerate(zip(blocks, steps, strict=True)):
        assert isinstance(block, Block), "what Blocks are made of"
        rate = blocks.rates[number]
        keep_2B11 = drop_path(x_BND, rate) if blocks.training and rate else None
        arguments = (block, x_BND, size_BN, merged, keep_2B11, proportional)
        if blocks.checkpointing and torch.is_grad_enabled():
            x_BND, size_BN = checkpoint(_block, *arguments, use_reentrant=False)
        else:
            x_BND, size_BN = _block(*arguments)
    return x_BND, size_BN


def _block(
    block: Block, x_BND: Tensor, size_BN: Tensor, merged: int, keep_2B11: Tensor | None, proportional: bool
) -> tuple[Tensor, Tensor]:
    qkv_BN3XY = block.attn.heads_of(block.norm1(x_BND))
    mixed_BXNY = attend(qkv_BN3XY.permute(2, 0, 3, 1, 4), size_BN.log() if proportional else None)
    branch_BND = block.attn.joined(mixed_BXNY.transpose(1, 2).flatten(2))
    x_BND = x_BND + (branch_BND if keep_2B11 is None else branch_BND * keep_2B11[0])
    if merged:
        x_BND, size_BN = merge(x_BND, size_BN, qkv_BN3XY[:, :, 1].detach().mean(dim=2), merged)
    branch_BND = block.mlp(block.norm2(x_BND))
    return x_BND + (branch_BND if keep_2B11 is None else branch_BND * keep_2B11[1]), size_BN


def merge(x_BND: Tensor, size_BN: Tensor, key_BNY: Tensor, merged: int) -> tuple[Tensor, Tensor]:
    """Join the `merged` most similar pairs into means weighted by size: tokens [B, N - R, D] and their sizes."""
    key_BNY = F.normalize(key_BNY, dim=-1)
    best_BA = (key_BNY[:, ::2] @ key_BNY[:, 1::2].transpose(1, 2)).max(dim=2)
    order_BA = best_BA.values.argsort(dim=1, descending=True)
    joined_BR, alone_BA = order_BA[:, :merged], order_BA[:, merged:]
    target_BR = best_BA.indices.gather(1, joined_BR)
    # The sizes ride along as one more column.
    sum_BND = torch.cat([x_BND * size_BN[..., None], size_BN[..., None]], dim=2)
    first_BAD, second_BCD = sum_BND[:, ::2], sum_BND[:, 1::2]
    columns = (-1, -1, sum_BND.shape[2])
    moved_BRD = first_BAD.gather(1, joined_BR[..., None].expand(columns))
    second_BCD = second_BCD.scatter_add(1, target_BR[..., None].expand(columns), moved_BRD)
    sum_BND = torch.cat([first_BAD.gather(1, alone_BA[..., None].expand(columns)), second_BCD], dim=1)
    size_BN = sum_BND[..., -1]
    return sum_BND[..., :-1] / size_BN[..., None], size_BN.detach()


def merging_multiply_adds(tokens: int, left: int, width: int, depth: int, heads: int) -> int:
    """Of all blocks: attention over what enters, the matching, the MLP over what is left."""
    total = 0
    for entering, merged in merges(tokens, left, depth):
        total += 4 * entering * width**2 + 2 * entering**2 * width + 8 * (entering - merged) * width**2
        total += (entering + 1) // 2 * (entering // 2) * (width // heads) if merged else 0
    return total


STRATEGY = Strategy(
    name="tome",
    sentence="keeps all tokens at first and joins the most similar ones in every block",
    source="ToMe, Bolya et al., ICLR 2023 (arXiv 2210.09461)",
    finetune_ratio=0.6,
    uses_keep_ratio=True,
    merges=True,
    keep=every_token,
    encode=merging_blocks,
    blocks_multiply_adds=merging_multiply_adds,
)
