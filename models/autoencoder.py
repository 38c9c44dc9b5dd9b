"""EVEREST's masked autoencoder: show few informative tokens, reconstruct the others, drop the rest.

Shapes: B clips, C channels, T frames, H x W pixels, A candidate slots, S slots, L places, N = S*L tokens,
V visible, R reconstructed, P = 1536 values of a tubelet, D encoder width, E decoder width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone, KeptTokens, mean_pool
from models.coders import Decoder, Encoder
from models.frames import choose_slots
from models.selection import Budget, Grid, TokenSplit, floor_share, slot_distances
from models.strategies import STRATEGIES, pretraining_rules, token_budget
from models.strategies.none import every_token
from models.tokens import (
    check_clip,
    check_input,
    check_pixels,
    cut_tubelets,
    in_product_type,
    normalised_targets,
    normalised_tubelets,
    seen_clip,
    take,
    tubelets_at,
)
from models.unequal.adaptive import adaptive_split, counted_split, needed
from models.unequal.packed import Rows, in_one_row, joined
from models.vit import Blocks, Positions, Real, xavier_init


class PretrainOutput(NamedTuple):
    """`loss` is a scalar; predictions are in the normalised space of `normalised_targets`."""

    loss: Tensor
    visible_BV: Tensor
    reconstruct_BR: Tensor
    scores_BN: Tensor
    prediction_BRP: Tensor
    slots_BS: Tensor | None = None


class EverestAutoencoder(Backbone):
    """Masked autoencoder over a chosen subset of tokens.

    `strategy` names one of `models.strategies`; `keep_ratio` and `visible_ratio` are shares of all tokens.
    `score_share` replaces the fixed budget by each clip's own (`models.unequal`) where the strategy reads scores, and
    computes nothing for padding; with `packed` = False clips are padded, at the same results.
    Clips of other sizes and lengths than `img_size` and `num_frames` work: counts follow the clip.

    As a backbone (`models.backbone`) the encoder sees `feature_ratio` of the tokens: what the strategy keeps in
    fine-tuning, all where it has no rule for that.
    """

    packed = True
    compiled = ("cut", "score", "compare")

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
        decoder_embed_dim: int = 384,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        strategy: str = "everest",
        keep_ratio: float = 0.3,
        visible_ratio: float = 0.1,
        score_share: float | None = None,
        drop_path_rate: float = 0.0,
        clip_input: str = "rgb",
    ) -> None:
        super().__init__()
        self.patch, self.tubelet, self.channels = patch_size, tubelet_size, in_chans
        self.strategy, self.keep_ratio, self.visible_ratio = strategy, keep_ratio, visible_ratio
        self.score_share, self.clip_input = score_share, check_input(clip_input)
        self.num_features, self.num_classes = embed_dim, 0
        self.feature_ratio = STRATEGIES[strategy].finetune_ratio or 1.0
        grid = Grid(num_frames // tubelet_size, img_size // patch_size, img_size // patch_size)
        token_budget(strategy, grid, keep_ratio, visible_ratio)  # refuses impossible ratios now, not at the first step
        if score_share is not None and not STRATEGIES[strategy].reads_scores:
            raise ValueError(
                f"score_share = {score_share} with strategy {strategy!r}, which does not score tokens. "
                "Cure: leave score_share out."
            )
        values = in_chans * tubelet_size * patch_size**2
        self.encoder = Encoder(values, grid.tokens, embed_dim, depth, num_heads, drop_path_rate)
        self.encoder_to_decoder = nn.Linear(embed_dim, decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_positions = Positions(grid.tokens, decoder_embed_dim)
        self.decoder = Decoder(values, decoder_embed_dim, decoder_depth, decoder_num_heads)
        self.encoder.blocks.apply(xavier_init)
        self.decoder.apply(xavier_init)
        make_sampler = STRATEGIES[strategy].sampler
        self.sampler = make_sampler(embed_dim, num_heads) if make_sampler else None
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self,
        clip_BCTHW: Tensor,
        *,
        generator: torch.Generator | None = None,
        noise_BN: Tensor | None = None,
        choose: int | None = None,
        slot_noise_BA: Tensor | None = None,
        return_output: bool = False,
    ) -> Tensor | PretrainOutput:
        """The loss of a normalised clip (or of its uint8 pixels), or with `return_output` a `PretrainOutput`.

        Randomness comes from `noise_BN` (uniform, one number per token) or else `generator`. With `choose`
        the clip holds candidate slots, of which that many are chosen first (`models.frames`; noise from
        `slot_noise_BA`).
        """
        tubelets_BNP, window = self.cut(clip_BCTHW)
        embedded_BND = self.encoder.patch_embed(tubelets_BNP)
        grid, slots_BS = window, None
        if choose is not None:
            slots_BS = self.choose_slots(embedded_BND, window, choose, slot_noise_BA, generator)
            tubelets_BNP, embedded_BND = (_take_slots(x, slots_BS, window) for x in (tubelets_BNP, embedded_BND))
            grid = window._replace(slots=choose)
        scores_BN, split = self.select(embedded_BND, grid, noise_BN, generator, tubelets_BNP)
        if split.visible_rows is not None and split.reconstruct_rows is not None:
            self.seen.update(map(Budget, split.visible_rows.lengths, split.reconstruct_rows.lengths))
        latent_BVD = self.encode(tubelets_BNP, embedded_BND, split)
        prediction_BRP = self.decode(latent_BVD, split, grid)
        source_BR = split.reconstruct_BR
        if slots_BS is not None:
            source_BR = slots_BS.gather(1, source_BR // grid.places) * grid.places + source_BR % grid.places
        rows = split.reconstruct_rows
        if rows is not None and self.packed:
            loss = self.compare(clip_BCTHW, window, rows.pack(source_BR), prediction_BRP, None, rows.clip_M[None])
            prediction_BRP = rows.unpack(prediction_BRP) if return_output else prediction_BRP
        else:
            valid_BR = None if rows is None else rows.valid()
            loss = self.compare(clip_BCTHW, window, source_BR, prediction_BRP, valid_BR)
        if teach := STRATEGIES[self.strategy].loss:
            error_BR = self.errors(clip_BCTHW, window, source_BR, prediction_BRP.detach())
            lesson = teach(scores_BN, split.reconstruct_BR, error_BR)
            loss = loss + (lesson - lesson.detach())  # the value stays that of the reconstruction
        if not return_output:
            return loss
        return PretrainOutput(loss, split.visible_BV, split.reconstruct_BR, scores_BN, prediction_BRP, slots_BS)

    def cut(self, clip_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Tubelets [B, N, P], in the type that products take, and their grid.

        Training lets a NaN through to the loss, where the engine's rule decides.
        """
        grid = check_clip(clip_BCTHW, self.patch, self.tubelet, self.channels, pixels=True)
        clip_BCTHW = seen_clip(clip_BCTHW, self.clip_input)
        if clip_BCTHW.dtype == torch.uint8:
            tubelets_BNP = cut_tubelets(clip_BCTHW, grid, self.patch, self.tubelet)
            return in_product_type(normalised_tubelets(tubelets_BNP, self.channels)), grid
        if not self.training and clip_BCTHW.device.type == "cpu" and not torch.compiler.is_compiling():
            check_pixels(clip_BCTHW)
        return cut_tubelets(in_product_type(clip_BCTHW), grid, self.patch, self.tubelet), grid

    def choose_slots(
        self,
        embedded_BND: Tensor,
        grid: Grid,
        num_slots: int,
        noise_BA: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        distance_BAL = slot_distances(embedded_BND.unflatten(1, (grid.slots, grid.places)))
        if noise_BA is None:
            noise_BA = torch.rand(distance_BAL.shape[:2], generator=generator, device=distance_BAL.device)
        return choose_slots(distance_BAL, num_slots, self.keep_ratio, noise_BA)

    def select(
        self,
        embedded_BND: Tensor,
        grid: Grid,
        noise_BN: Tensor | None,
        generator: torch.Generator | None,
        tubelets_BNP: Tensor | None = None,
    ) -> tuple[Tensor, TokenSplit]:
        """ReRo scores (where the strategy reads some; else the noise) and which tokens are shown and rebuilt."""
        strategy = STRATEGIES[self.strategy]
        if noise_BN is None:
            noise_BN = torch.rand(embedded_BND.shape[:2], generator=generator, device=embedded_BND.device)
        elif noise_BN.shape != embedded_BND.shape[:2]:
            raise ValueError(
                f"noise_BN of shape {tuple(noise_BN.shape)}, expected {tuple(embedded_BND.shape[:2])}: a uniform "
                "number for each token. Cure: draw it for this clip size."
            )
        scores_BN = self.score(embedded_BND, grid.slots) if strategy.reads_scores else noise_BN
        if self.sampler is not None:
            every_1N = torch.arange(grid.tokens, device=embedded_BND.device)[None]
            scores_BN = self.sampler(embedded_BND + self.encoder.positions(every_1N, grid.tokens))
        if strategy.score is not None:
            scores_BN = strategy.score(needed(tubelets_BNP, self.strategy), scores_BN, grid)
        visible_of_kept = self.visible_ratio / self.keep_ratio
        if self.score_share is not None:
            return scores_BN, adaptive_split(scores_BN, noise_BN, self.score_share, visible_of_kept)
        budget = token_budget(self.strategy, grid, self.keep_ratio, self.visible_ratio)
        if strategy.begins is not None:
            count_B = strategy.begins(scores_BN).sum(1).clamp(2, sum(budget))
            return scores_BN, counted_split(scores_BN, noise_BN, count_B, visible_of_kept)
        split, _ = pretraining_rules(self.strategy)
        return scores_BN, split(scores_BN, noise_BN, grid, budget)

    def encode(self, tubelets_BNP: Tensor, embedded_BND: Tensor, split: TokenSplit) -> Tensor:
        """What the encoder makes of the visible tokens [B, V, D]; packed [1, M, D] where clips differ in counts."""
        tokens, index_BV, real_BV = embedded_BND.shape[1], split.visible_BV, self._real(split.visible_rows)
        source_BV = index_BV
        if isinstance(real_BV, Rows):
            index_BV = real_BV.pack(index_BV)
            source_BV = real_BV.among_all(index_BV, tokens)
            tubelets_BNP, embedded_BND = in_one_row(tubelets_BNP), in_one_row(embedded_BND)
        visible_BVD = self.encoder.patch_embed.used(tubelets_BNP, embedded_BND, source_BV)
        latent_BVD: Tensor = self.encoder(visible_BVD + self.encoder.positions(index_BV, tokens), real_BV)
        return latent_BVD

    def decode(self, latent_BVD: Tensor, split: TokenSplit, grid: Grid) -> Tensor:
        """Predictions [B, R, P] of the tokens to reconstruct; packed [1, M, P] where clips differ in counts."""
        visible, hidden = self._real(split.visible_rows), self._real(split.reconstruct_rows)
        visible_BV, reconstruct_BR = split.visible_BV, split.reconstruct_BR
        if isinstance(visible, Rows) and isinstance(hidden, Rows):
            visible_BV, reconstruct_BR = visible.pack(visible_BV), hidden.pack(reconstruct_BR)
        shown_BVE = self.encoder_to_decoder(latent_BVD) + self.decoder_positions(visible_BV, grid.tokens)
        hidden_BRE = self.mask_token + self.decoder_positions(reconstruct_BR, grid.tokens)
        tokens_BKE = torch.cat([shown_BVE, hidden_BRE], dim=1)
        if isinstance(visible, Rows) and isinstance(hidden, Rows):
            both, place_V, place_R = joined(visible, hidden)
            tokens_BKE = torch.empty_like(tokens_BKE).index_copy(1, torch.cat([place_V, place_R]), tokens_BKE)
            return self._decoded(tokens_BKE, place_R, both)
        valid_BK = None
        if isinstance(visible, Tensor) and isinstance(hidden, Tensor):
            valid_BK = torch.cat([visible, hidden], dim=1)
        return self._decoded(tokens_BKE, slice(-hidden_BRE.shape[1], None), valid_BK)

    def _decoded(self, tokens_BKE: Tensor, predicted: slice | Tensor, real: Real) -> Tensor:
        prediction_BRP: Tensor = self.decoder(tokens_BKE, predicted, real)
        return prediction_BRP

    def _real(self, rows: Rows | None) -> Real:
        return rows if rows is None or self.packed else rows.valid()

    def compare(
        self,
        clip_BCTHW: Tensor,
        window: Grid,
        source_BR: Tensor,
        prediction_BRP: Tensor,
        valid_BR: Tensor | None,
        clip_BR: Tensor | None = None,
    ) -> Tensor:
        """The loss of what was predicted for the tubelets at `source_BR` of the clip (of the clips `clip_BR`)."""
        seen_BCTHW = seen_clip(clip_BCTHW, self.clip_input)
        true_BRP = tubelets_at(seen_BCTHW, window, source_BR, self.patch, self.tubelet, clip_BR)
        return reconstruction_loss(prediction_BRP, normalised_targets(true_BRP, self.channels), valid_BR)

    def errors(self, clip_BCTHW: Tensor, window: Grid, source_BR: Tensor, prediction_BRP: Tensor) -> Tensor:
        """The mean squared error of each reconstructed token [B, R]."""
        seen_BCTHW = seen_clip(clip_BCTHW, self.clip_input)
        true_BRP = tubelets_at(seen_BCTHW, window, source_BR, self.patch, self.tubelet)
        return (prediction_BRP.float() - normalised_targets(true_BRP, self.channels)).square().mean(dim=2)

    def embed_kept(self, clip_BCTHW: Tensor) -> KeptTokens:
        tubelets_BNP, grid = self.cut(clip_BCTHW)
        embedded_BND = self.encoder.patch_embed(tubelets_BNP)
        keep = STRATEGIES[self.strategy].keep or every_token
        scores_BN = self.score(embedded_BND, grid.slots)
        kept_BK = keep(scores_BN, max(1, floor_share(self.feature_ratio, grid.tokens)))
        tokens_BKD = self.encoder.patch_embed.used(tubelets_BNP, embedded_BND, kept_BK)
        return KeptTokens(tokens_BKD + self.encoder.positions(kept_BK, grid.tokens), kept_BK, None, grid)

    def forward_head(
        self, x_BKD: Tensor, pre_logits: bool = False, valid_BK: Real = None, kept: KeptTokens | None = None
    ) -> Tensor:
        """The mean [B, D] of the real tokens of `forward_features`; there are no classes."""
        return mean_pool(x_BKD, valid_BK)

    def encoder_blocks(self) -> Blocks:
        return self.encoder.blocks

    def encoder_norm(self) -> nn.Module:
        return self.encoder.norm

    def prune_norm(self) -> None:
        self.encoder.norm = nn.Identity()

    def prune_head(self) -> None:
        """Remove the decoder: what is left gives features only."""
        for name in ("encoder_to_decoder", "decoder_positions", "decoder"):
            setattr(self, name, nn.Identity())

    def rows_of_blocks(self) -> tuple[Blocks, ...]:
        return self.encoder.blocks, self.decoder.blocks

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass: less memory, about a third more time."""
        self.encoder.blocks.checkpointing = self.decoder.blocks.checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's rule for layer-wise groups."""
        return {"stem": r"^encoder\.patch_embed", "blocks": r"^encoder\.blocks\.(\d+)"}


def reconstruction_loss(prediction_BRP: Tensor, target_BRP: Tensor, valid_BR: Tensor | None = None) -> Tensor:
    """Mean squared error in fp32 over reconstructed tokens, padding left out."""
    if valid_BR is None:
        return F.mse_loss(prediction_BRP.float(), target_BRP)
    error_BR = (prediction_BRP.float() - target_BRP).square().mean(dim=2)
    return (error_BR * valid_BR).sum() / valid_BR.sum()


def _take_slots(x_BND: Tensor, slots_BS: Tensor, grid: Grid) -> Tensor:
    """Tokens of the chosen slots [B, S*L, D]."""
    index_BSL = slots_BS[..., None] * grid.places + torch.arange(grid.places, device=slots_BS.device)
    return take(x_BND, index_BSL.flatten(1))
