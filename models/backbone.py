"""timm's conventions for backbones: any code that takes a timm ViT's features takes ours.

As in `timm.models.vision_transformer`: `forward_features` gives all tokens that were computed, `forward_head` pools and
classifies them, `forward_intermediates` gives what chosen blocks gave, `prune_intermediate_layers` removes the blocks
behind those, `feature_info` describes them. A video has one dimension more: a map is [B, D, S, h, w].

Maps are whole: tokens that the model drops are 0 in them. `strategy="none"` (a model made so, or
`load_model(folder, strategy="none")`) computes every token.

Shapes: B clips, N tokens = S slots x h x w places, K kept ones, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypedDict, Unpack

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from models.info import ModelArguments
from models.selection import Budget, Grid, rero_scores
from models.unequal.packed import Rows
from models.vit import Blocks, CompileOptions, Real, begin_pass_at, compile_method

#: Formats of intermediates: maps [B, D, S, h, w] (timm's name for channels first), or [B, N, D].
FORMATS = ("NCHW", "NLC")


class BlockInfo(TypedDict):
    """What timm wants to know of a block: its name, width D, and the side [pixels] of a token's square."""

    module: str
    num_chs: int
    reduction: int


class Intermediates(TypedDict, total=False):
    """What `forward_intermediates(output_dict=True)` gives; the features are left out with `intermediates_only`."""

    image_intermediates: list[Tensor]
    image_kept: Tensor
    image_features: Tensor


class KeptTokens(NamedTuple):
    """The kept tokens of clips before the first block.

    Attributes:
        tokens_BKD: [B, K, D]; of clips with unequal counts packed, [1, M, D], where `packed`.
        kept_BK: their places, padded where counts differ; `rows` says which are real (None: all).
    """

    tokens_BKD: Tensor
    kept_BK: Tensor
    rows: Rows | None
    grid: Grid
    packed: bool = False

    @property
    def valid_BK(self) -> Tensor | None:
        """Which of `kept_BK` are real; None: all."""
        return None if self.rows is None else self.rows.valid()

    @property
    def real(self) -> Real:
        """What blocks and pools must know of `tokens_BKD`."""
        return self.rows if self.packed else self.valid_BK

    def padded(self, tokens_BKD: Tensor) -> Tensor:
        """Tokens behind blocks as rows [B, K, D], 0 where nothing is real."""
        return self.rows.unpack(tokens_BKD) if self.packed and self.rows is not None else tokens_BKD


class Backbone(nn.Module, ABC):
    """What a model needs for these conventions: `embed_kept`, and its encoder's blocks and last norm.

    `architecture` and `kwargs` are the timm name and the arguments that the model was made with; `timm.create_model`
    notes them.
    """

    num_features: int
    num_classes: int
    patch: int
    strategy: str
    architecture: str
    kwargs: ModelArguments
    #: Methods around the blocks that are compiled with them.
    compiled: ClassVar[tuple[str, ...]] = ("cut", "score")

    def __init__(self) -> None:
        super().__init__()
        #: Budget of a clip -> how many clips had it, where each has its own: what their cost is made of.
        self.seen: Counter[int | Budget] = Counter()

    @abstractmethod
    def embed_kept(self, clip_BCTHW: Tensor) -> KeptTokens:
        """The kept tokens of a normalised clip, embedded and with their positions."""

    @abstractmethod
    def encoder_blocks(self) -> Blocks:
        """The encoder's blocks."""

    @abstractmethod
    def encoder_norm(self) -> nn.Module:
        """The norm behind the encoder's last block; Identity where the norm stands behind the pooling."""

    def score(self, embedded_BND: Tensor, slots: int) -> Tensor:
        """ReRo scores [B, N] of embedded tokens, compiled where the model's parts are: one pass instead of five."""
        return rero_scores(embedded_BND, slots)

    @property
    def head_hidden_size(self) -> int:
        """How many numbers the pooled features of a clip are (timm's name)."""
        return self.num_features

    @property
    def feature_info(self) -> list[BlockInfo]:
        """Name, channels and reduction of each block, as `timm.create_model(features_only=True)` reads them."""
        prefix = next(name for name, module in self.named_modules() if module is self.encoder_blocks())
        width, patch = self.num_features, self.patch
        return [
            {"module": f"{prefix}.{block}", "num_chs": width, "reduction": patch}
            for block in range(len(self.encoder_blocks()))
        ]

    def forward_features(self, clip_BCTHW: Tensor) -> Tensor:
        """Tokens [B, K, D] behind the encoder's last block and norm, in the order in which they are kept."""
        kept = self.embed_kept(clip_BCTHW)
        return kept.padded(self.encoder_norm()(self.encoder_blocks()(kept.tokens_BKD, kept.real)))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]] | Intermediates:
        """What chosen blocks gave, with timm's arguments and results.

        Args:
            x: normalised clip [B, C, T, H, W].
            indices: the last so many blocks, or these (from the end where negative); None: all.
            return_prefix_tokens: changes nothing: there are no class tokens.
            norm: apply the encoder's last norm to intermediates.
            stop_early: compute no block behind the last that is asked for.
            output_fmt: "NCHW": maps [B, D, S, h, w]; "NLC": [B, N, D]. Tokens that were dropped are 0 in both.
            intermediates_only: only the list.
            output_dict: a dictionary with `image_intermediates`, `image_features` and `image_kept` [B, N], which says
                what tokens were computed.

        Returns:
            (features [B, K, D] as of :meth:`forward_features`, intermediates), or what was asked for.

        Raises:
            ValueError: no such block or format.
        """
        if output_fmt not in FORMATS:
            raise ValueError(f"output_fmt = {output_fmt!r}, expected NCHW or NLC. Cure: choose one of them.")
        blocks = self.encoder_blocks()
        take, last = _taken(len(blocks), indices)
        kept = self.embed_kept(x)
        tokens_BKD, outputs = kept.tokens_BKD, {}
        stop = last + 1 if stop_early else len(blocks)
        for number in range(stop):
            tokens_BKD = blocks.run(number, tokens_BKD, kept.real)
            if number in take:
                outputs[number] = kept.padded(self.encoder_norm()(tokens_BKD) if norm else tokens_BKD)
        maps = [dense(outputs[number], kept, output_fmt) for number in sorted(outputs)]
        features_BKD = kept.padded(self.encoder_norm()(tokens_BKD))
        if output_dict:
            named: Intermediates = {"image_intermediates": maps, "image_kept": kept_mask(kept)}
            return named if intermediates_only else {**named, "image_features": features_BKD}
        return maps if intermediates_only else (features_BKD, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks behind the last that is asked for; returns the indices of those asked for."""
        blocks = self.encoder_blocks()
        take, last = _taken(len(blocks), indices)
        del blocks[last + 1 :]
        del blocks.rates[last + 1 :]
        if prune_norm:
            self.prune_norm()
        if prune_head:
            self.prune_head()
        return take

    @abstractmethod
    def forward_head(
        self, x_BKD: Tensor, pre_logits: bool = False, valid_BK: Real = None, kept: KeptTokens | None = None
    ) -> Tensor:
        """What the model makes of the tokens of `forward_features`; with `pre_logits` the pooled features [B, D].

        Args:
            valid_BK: which tokens are real, or the clips of a packed row, where the budget differs by clip; None: all.
            kept: where the tokens are, for heads that ask for it.
        """

    def rows_of_blocks(self) -> tuple[Blocks, ...]:
        """The blocks of a forward pass, row by row."""
        return (self.encoder_blocks(),)

    def compile_parts(self, row_mode: str | None = None, **options: Unpack[CompileOptions]) -> None:
        """Compile the blocks, and what stands around them: a few small graphs that equal blocks share.

        Args:
            row_mode: compile each row of blocks as a whole, in this mode of `torch.compile`. With "reduce-overhead" a
                GPU replays a row's kernels as one CUDA graph, forward and backward. A gradient then lies in memory
                that the next pass writes over, but where the parameter has a `grad` already, to which it is added.
        """
        for part in self.compiled:
            compile_method(self, part, options)
        for row in self.rows_of_blocks():
            if row_mode is None:
                for block in row:
                    compile_method(block, "forward", options)
            else:
                compile_method(row, "through", {**options, "mode": row_mode})
        if row_mode is not None:
            begin_pass_at(self, "cut")  # the first that any pass calls

    @abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass: less memory, about a third more time."""

    @abstractmethod
    def prune_norm(self) -> None:
        """Remove the encoder's last norm."""

    @abstractmethod
    def prune_head(self) -> None:
        """Remove what stands behind the encoder."""


def mean_pool(x_BKD: Tensor, valid_BK: Real) -> Tensor:
    """The mean [B, D] of a clip's real tokens."""
    if isinstance(valid_BK, Rows):
        return valid_BK.mean(x_BKD)
    if valid_BK is None:
        return x_BKD.mean(dim=1)
    return (x_BKD * valid_BK[..., None]).sum(dim=1) / valid_BK.sum(dim=1, keepdim=True)


def kept_mask(kept: KeptTokens) -> Tensor:
    """Which tokens of the grid were computed: bool [B, N]."""
    real_BK = torch.ones_like(kept.kept_BK) if kept.valid_BK is None else kept.valid_BK.long()
    counts_BN = kept.kept_BK.new_zeros(len(kept.kept_BK), kept.grid.tokens)
    mask_BN: Tensor = counts_BN.scatter_add(1, kept.kept_BK, real_BK) > 0
    return mask_BN


def dense(tokens_BKD: Tensor, kept: KeptTokens, output_fmt: str) -> Tensor:
    """Kept tokens at their places, 0 elsewhere: [B, D, S, h, w], or [B, N, D]."""
    if kept.valid_BK is not None:
        tokens_BKD = tokens_BKD * kept.valid_BK[..., None]
    index_BKD = kept.kept_BK[..., None].expand_as(tokens_BKD)
    empty_BND = tokens_BKD.new_zeros(len(tokens_BKD), kept.grid.tokens, tokens_BKD.shape[2])
    # Added, not set: what pads a row has a real token's place.
    tokens_BND = empty_BND.scatter_add(1, index_BKD, tokens_BKD)
    if output_fmt == "NLC":
        return tokens_BND
    maps_BDSHW: Tensor = tokens_BND.transpose(1, 2).unflatten(2, tuple(kept.grid)).contiguous()
    return maps_BDSHW


def _taken(blocks: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    try:
        taken, last = feature_take_indices(blocks, list(indices) if isinstance(indices, Sequence) else indices)
    except AssertionError as error:
        cure = f"Cure: numbers from 0 to {blocks - 1}, or how many of the last."
        raise ValueError(f"indices = {indices!r}: {error}. {cure}") from None
    return list(taken), int(last)
