"""The fine-tuned classifier: the encoder over a clip's most informative tokens, pooled, and a linear head.

Shapes: B clips, C channels, T frames, H x W pixels, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone, KeptTokens, mean_pool
from models.selection import Grid
from models.strategies import STRATEGIES, finetuning_rule, kept_tokens
from models.tokens import check_clip, check_input, check_pixels, cut_tubelets, in_product_type, seen_clip
from models.unequal.adaptive import adaptive_tokens, counted_tokens, needed, run_lengths
from models.unequal.packed import Rows, in_one_row
from models.vit import (
    Blocks,
    LayerNorm,
    Positions,
    Real,
    TubeletEmbedding,
    trunc_normal_init,
)

POOLS = ("mean", "attentive", "places")
#: Along each side of the picture so many cells have a mean of their own with the head "places".
CELLS = 3


class AttentivePool(nn.Module):
    """One learned query attends over all tokens: a probe with its own say over a frozen encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = LayerNorm(width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x_BKD: Tensor, valid_BK: Real = None) -> Tensor:
        kv_BKO = self.kv(self.norm(x_BKD))
        if isinstance(valid_BK, Rows):  # one query a clip: its products are few, padded or not
            kv_BKO, valid_BK = valid_BK.unpack(kv_BKO), valid_BK.valid()
        key_BXKY, value_BXKY = kv_BKO.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query_BX1Y = self.query.expand(len(kv_BKO), -1, -1).unflatten(2, (self.heads, -1)).transpose(1, 2)
        if valid_BK is not None and valid_BK.dtype != torch.bool:
            valid_BK = valid_BK.log().to(key_BXKY)  # a key that stands for several weighs as several
        mask = None if valid_BK is None else valid_BK[:, None, None, :]
        pooled_BX1Y = F.scaled_dot_product_attention(query_BX1Y.to(key_BXKY), key_BXKY, value_BXKY, attn_mask=mask)
        pooled_BD: Tensor = self.proj(pooled_BX1Y.flatten(1))
        return pooled_BD


class PlacePool(nn.Module):
    """The mean of each slot's normed tokens in 3 x 3 cells of the picture, one after the other.

    Ours, not the paper's: a mean over all tokens forgets where and when something moved, which a large set teaches the
    encoder to write into every token, and a small one does not. Dropped tokens count as 0. Clips of other sizes and
    lengths than `grid`'s have the same cells, over their own tokens.
    """

    def __init__(self, width: int, grid: Grid) -> None:
        super().__init__()
        self.grid, self.cells = grid, grid.slots * CELLS**2
        self.norm = LayerNorm(width)

    def forward(self, x_BKD: Tensor, kept: KeptTokens | None) -> Tensor:
        """Features [B, cells * D] of tokens and where they are; without that, of every token of the grid."""
        if kept is None:
            if x_BKD.shape[1] != self.grid.tokens:
                raise ValueError(
                    f"head 'places' got {x_BKD.shape[1]} tokens of {self.grid.tokens}, and not which: expected `kept`. "
                    "Cure: forward_head(tokens, kept=model.embed_kept(clip)), or call the model itself."
                )
            every_BN = torch.arange(self.grid.tokens, device=x_BKD.device).expand(len(x_BKD), -1)
            kept = KeptTokens(x_BKD, every_BN, None, self.grid)
        share_BKC = self.shares(kept.grid, x_BKD)[kept.kept_BK]
        if kept.valid_BK is not None:
            share_BKC = share_BKC * kept.valid_BK[..., None]
        pooled_BCD: Tensor = share_BKC.transpose(1, 2) @ kept.padded(self.norm(x_BKD))
        return pooled_BCD.flatten(1)

    def shares(self, grid: Grid, like: Tensor) -> Tensor:
        """What each token of a grid counts in each cell [N, C]: 1 / the tokens of its cell, and 0 in all others."""
        place_N = torch.arange(grid.tokens, device=like.device)
        slot_N = place_N // (grid.height * grid.width) * self.grid.slots // grid.slots
        row_N = place_N // grid.width % grid.height * CELLS // grid.height
        column_N = place_N % grid.width * CELLS // grid.width
        cell_N = (slot_N * CELLS + row_N) * CELLS + column_N
        inside_NC = (cell_N[:, None] == torch.arange(self.cells, device=like.device)).to(like.dtype)
        return inside_NC / inside_NC.sum(dim=0).clamp(min=1)


def pooled(pool: AttentivePool | PlacePool | None, x_BKD: Tensor, valid_BK: Real, kept: KeptTokens | None) -> Tensor:
    """The features of a clip's tokens, by what a classifier pools with; without that their mean."""
    if isinstance(pool, PlacePool):
        features_BD: Tensor = pool(x_BKD, kept)
        return features_BD
    return (pool or mean_pool)(x_BKD, valid_BK)


class Selected(NamedTuple):
    """Kept token indices [B, K].

    Attributes:
        rows: with a per-clip budget, which of them are real.
        runs_BN: for how many equal ones each token of the grid stands, where a strategy drops those.
    """

    kept_BK: Tensor
    rows: Rows | None = None
    runs_BN: Tensor | None = None


class EverestClassifier(Backbone):
    """ViT classifier over `keep_ratio` of the tokens (`strategy` everest) or all of them (`none`).

    `head` is "mean" (mean-pool, norm, linear; the paper's), "attentive" or "places". `score_share` gives each clip its
    own number of tokens (`models.unequal`), and computes nothing for padding; with `packed` = False clips are padded,
    at the same results. Clips of other sizes and lengths than `img_size` and `num_frames` work.
    """

    packed = True

    def __init__(
        self,
        img_size: int = 224,
        num_frames: int = 16,
        patch_size: int = 16,
        tubelet_size: int = 2,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 400,
        strategy: str = "everest",
        keep_ratio: float = 0.6,
        score_share: float | None = None,
        head: str = "mean",
        drop_path_rate: float = 0.0,
        fc_drop_rate: float = 0.0,
        init_scale: float = 0.001,
        clip_input: str = "rgb",
    ) -> None:
        super().__init__()
        finetuning_rule(strategy)  # refuses one that only pre-trains
        if head not in POOLS:
            raise ValueError(f"head = {head!r}, expected one of {', '.join(POOLS)}. Cure: 'mean' is the paper's.")
        if head == "places" and STRATEGIES[strategy].merges:
            raise ValueError(
                f"head = 'places' with strategy = {strategy!r}, whose tokens are merged and have no place. Cure: head "
                "'mean', or strategy 'none'."
            )
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio = {keep_ratio}, expected above 0 and at most 1. Cure: 0.6 is the paper's.")
        self.patch, self.tubelet, self.channels = patch_size, tubelet_size, in_chans
        self.strategy, self.keep_ratio, self.score_share = strategy, keep_ratio, score_share
        self.clip_input = check_input(clip_input)
        self.num_classes, self.num_features = num_classes, embed_dim
        grid = Grid(num_frames // tubelet_size, img_size // patch_size, img_size // patch_size)
        self.patch_embed = TubeletEmbedding(in_chans * tubelet_size * patch_size**2, embed_dim)
        self.positions = Positions(grid.tokens, embed_dim)
        self.blocks = Blocks(embed_dim, depth, num_heads, drop_path=drop_path_rate)
        #: What is added to a token that stands for so many equal ones [S, D]; 0 at first.
        runs = STRATEGIES[strategy].begins is not None
        self.lengths = nn.Parameter(torch.zeros(grid.slots, embed_dim)) if runs else None
        self.norm = nn.Identity()  # as in timm where the norm stands behind the pooling
        self.pool: AttentivePool | PlacePool | None = None
        self.fc_norm: nn.Module = LayerNorm(embed_dim)
        if head == "attentive":
            self.pool = AttentivePool(embed_dim, num_heads)
        elif head == "places":  # which norms before it pools
            self.pool, self.fc_norm = PlacePool(embed_dim, grid), nn.Identity()
        self.fc_drop = nn.Dropout(fc_drop_rate)
        head_of_classes = nn.Linear(self.head_hidden_size, num_classes)
        self.head: nn.Module = head_of_classes
        for module in (self.blocks, self.pool, self.head):
            if module is not None:
                module.apply(trunc_normal_init)
        with torch.no_grad():
            head_of_classes.weight.mul_(init_scale)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Logits [B, classes] of a normalised clip."""
        kept = self.embed_kept(clip_BCTHW)
        if encode := STRATEGIES[self.strategy].encode:
            left = kept_tokens(self.strategy, kept.grid, self.keep_ratio)
            tokens_BKD, stands_for_BK = encode(self.blocks, kept.tokens_BKD, left)
            return self.forward_head(tokens_BKD, valid_BK=stands_for_BK)
        return self.forward_head(self.blocks(kept.tokens_BKD, kept.real), valid_BK=kept.real, kept=kept)

    def forward_head(
        self, x_BKD: Tensor, pre_logits: bool = False, valid_BK: Real = None, kept: KeptTokens | None = None
    ) -> Tensor:
        """Logits of the tokens of `forward_features`; with `pre_logits` the pooled features (timm's interface).

        Args:
            valid_BK: which tokens are real, or the clips of a packed row, where the budget differs by clip; of merged
                tokens how many each stands for.
            kept: where the tokens are, which the head "places" asks for.
        """
        features_BD: Tensor = self.fc_drop(self.fc_norm(pooled(self.pool, x_BKD, valid_BK, kept)))
        if pre_logits:
            return features_BD
        logits_BK: Tensor = self.head(features_BD)
        return logits_BK

    def embed_kept(self, clip_BCTHW: Tensor) -> KeptTokens:
        tubelets_BNP, grid = self.cut(clip_BCTHW)
        embedded_BND = self.patch_embed(tubelets_BNP)
        kept_BK, rows, runs_BN = self.select(embedded_BND, grid, tubelets_BNP)
        if rows is not None:
            self.seen.update(rows.lengths)
        index_BK = source_BK = kept_BK
        if rows is not None and self.packed:
            index_BK = rows.pack(kept_BK)
            source_BK = rows.among_all(index_BK, grid.tokens)
            tubelets_BNP, embedded_BND = in_one_row(tubelets_BNP), in_one_row(embedded_BND)
        tokens_BKD = self.patch_embed.used(tubelets_BNP, embedded_BND, source_BK)
        tokens_BKD = tokens_BKD + self.positions(index_BK, grid.tokens)
        if self.lengths is not None and runs_BN is not None:
            length_BK = runs_BN.gather(1, kept_BK) if source_BK is kept_BK else runs_BN.flatten()[source_BK]
            tokens_BKD = tokens_BKD + self.lengths[(length_BK - 1).clamp(max=len(self.lengths) - 1)]
        return KeptTokens(tokens_BKD, kept_BK, rows, grid, packed=index_BK is not kept_BK)

    def encoder_blocks(self) -> Blocks:
        return self.blocks

    def encoder_norm(self) -> nn.Module:
        return self.norm

    def prune_norm(self) -> None:
        self.norm = nn.Identity()

    def prune_head(self) -> None:
        self.pool, self.fc_norm = None, nn.Identity()
        self.reset_classifier(0)

    def cut(self, clip_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Tubelets [B, N, P], in the type that products take, and their grid.

        Outside training, pixels that are not numbers are refused.
        """
        grid = check_clip(clip_BCTHW, self.patch, self.tubelet, self.channels)
        if not self.training and clip_BCTHW.device.type == "cpu" and not torch.compiler.is_compiling():
            check_pixels(clip_BCTHW)
        clip_BCTHW = seen_clip(clip_BCTHW, self.clip_input)
        return cut_tubelets(in_product_type(clip_BCTHW), grid, self.patch, self.tubelet), grid

    def select(self, embedded_BND: Tensor, grid: Grid, tubelets_BNP: Tensor | None = None) -> Selected:
        """Which tokens of each clip are kept.

        Args:
            tubelets_BNP: the normalised tubelets, which strategies with scores of their own read.
        """
        strategy = STRATEGIES[self.strategy]
        scores_BN = self.score(embedded_BND, grid.slots) if strategy.reads_scores else embedded_BND[..., 0]
        if strategy.score is not None:
            scores_BN = strategy.score(needed(tubelets_BNP, self.strategy), scores_BN, grid)
        if self.score_share is not None and strategy.reads_scores:
            return Selected(*adaptive_tokens(scores_BN, self.score_share))
        most = kept_tokens(self.strategy, grid, self.keep_ratio)
        if strategy.begins is not None:
            begins_BN = strategy.begins(scores_BN)
            kept_BK, rows = counted_tokens(scores_BN, begins_BN.sum(1).clamp(1, most))
            return Selected(kept_BK, rows, run_lengths(begins_BN, grid.slots))
        keep = finetuning_rule(self.strategy)
        return Selected(keep(scores_BN, grid.tokens if strategy.merges else most))

    @property
    def head_hidden_size(self) -> int:
        return self.num_features * self.pool.cells if isinstance(self.pool, PlacePool) else self.num_features

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for another number of classes, 0 for none (timm's interface; the pooling stays)."""
        self.num_classes = num_classes
        weight = self.patch_embed.proj.weight
        self.head = nn.Linear(self.head_hidden_size, num_classes).to(weight) if num_classes else nn.Identity()
        self.head.apply(trunc_normal_init)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass: less memory, about a third more time."""
        self.blocks.checkpointing = enable

    def freeze_encoder(self) -> None:
        """Only pool, norm and head learn: the evaluation of a frozen encoder."""
        self.patch_embed.requires_grad_(False)
        if self.lengths is not None:
            self.lengths.requires_grad_(False)
        self.blocks.requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        return {"pool.query", "lengths"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's rule for layer-wise lr decay: 0 embedding, k + 1 block k, then head and norms."""
        return {"stem": r"^(?:patch_embed|lengths)", "blocks": r"^blocks\.(\d+)"}
