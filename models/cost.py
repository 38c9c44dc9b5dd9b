"""What a clip costs, from the configuration alone: multiply-adds and tokens (METHOD section 6).

Counted are matrix products (linears, attention); norms, activations and gathers are below 1 % and left out,
as torch's FlopCounterMode leaves them out. It prints 2 per multiply-add; these functions count 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypedDict

from models.classifier import CELLS
from models.registry import SIZES, Size, architecture
from models.selection import Budget, Grid
from models.strategies import STRATEGIES, kept_tokens, token_budget

Stage = Literal["pretrain", "finetune"]


class Cost(NamedTuple):
    """Multiply-adds of one forward of one clip, by part, and the tokens each part sees."""

    embed: int
    encoder: int
    decoder: int
    head: int
    encoder_tokens: int
    decoder_tokens: int

    @property
    def multiply_adds(self) -> int:
        return self.embed + self.encoder + self.decoder + self.head


class CostRow(TypedDict):
    """A row of the table of `flops_table`; ratios are shares of all tokens."""

    size: str
    stage: str
    strategy: str
    keep_ratio: float
    visible_ratio: float | None
    gmacs_per_clip: float
    encoder_tokens: int
    decoder_tokens: int


def multiply_adds(
    size: str,
    stage: Stage,
    *,
    strategy: str = "everest",
    keep_ratio: float = 0.3,
    visible_ratio: float = 0.1,
    frames: int = 16,
    resolution: int = 224,
    decoder_depth: int | None = None,
    num_classes: int = 400,
    head: str = "mean",
    candidates: int | None = None,
) -> Cost:
    """Cost of one forward of one clip of `frames` x `resolution` x `resolution` pixels; a training step is 3.

    `candidates` slots are embedded instead of the clip's own where frames are chosen online. Raises
    ValueError for an unknown size, stage or strategy, or ratios that leave nothing to do.
    """
    architecture(size, stage == "pretrain")
    shape = SIZES[size]
    grid = Grid(frames // 2, resolution // 16, resolution // 16)
    embed = (candidates or grid.slots) * grid.places * 1536 * shape.embed_dim
    if stage == "pretrain":
        visible, reconstruct = token_budget(strategy, grid, keep_ratio, visible_ratio)
        extra = STRATEGIES[strategy].extra_multiply_adds
        embed += extra(grid, shape.embed_dim) if extra else 0
        return _pretrain(shape, embed, visible, reconstruct, decoder_depth or shape.decoder_depth)
    if stage != "finetune":
        raise ValueError(f"stage = {stage!r}, expected 'pretrain' or 'finetune'. Cure: choose one of them.")
    kept = kept_tokens(strategy, grid, keep_ratio)
    cost = _finetune(shape, embed, kept, num_classes, head, grid.slots)
    if blocks := STRATEGIES[strategy].blocks_multiply_adds:
        encoder = blocks(grid.tokens, kept, shape.embed_dim, shape.depth, shape.num_heads)
        return cost._replace(encoder=encoder, encoder_tokens=grid.tokens)
    return cost


def cost_of_counts(
    size: str,
    counts: Mapping[int | Budget, int],
    *,
    frames: int = 16,
    resolution: int = 224,
    decoder_depth: int | None = None,
    num_classes: int = 400,
    head: str = "mean",
) -> Cost:
    """Mean cost of one forward of clips that keep different numbers of tokens, computed without padding.

    Args:
        counts: tokens that a classifier's clip keeps, or what one of a pre-training shows and rebuilds -> such clips.
    """
    architecture(size, pretrain=True)
    shape = SIZES[size]
    embed = frames // 2 * (resolution // 16) ** 2 * 1536 * shape.embed_dim
    depth = decoder_depth or shape.decoder_depth
    clips, sums = sum(counts.values()), [0] * len(Cost._fields)
    for kept, number in counts.items():
        if isinstance(kept, Budget):
            cost = _pretrain(shape, embed, *kept, depth)
        else:
            cost = _finetune(shape, embed, kept, num_classes, head, frames // 2)
        sums = [total + number * part for total, part in zip(sums, cost, strict=True)]
    return Cost(*(round(total / clips) for total in sums))


def _finetune(shape: Size, embed: int, kept: int, num_classes: int, head: str, slots: int) -> Cost:
    classify = shape.embed_dim * num_classes
    if head == "attentive":
        classify += 2 * kept * shape.embed_dim**2 + 2 * kept * shape.embed_dim + shape.embed_dim**2
    elif head == "places":
        classify = slots * CELLS**2 * shape.embed_dim * (kept + num_classes)
    return Cost(embed, _blocks(kept, shape.embed_dim, shape.depth), 0, classify, kept, 0)


def _pretrain(shape: Size, embed: int, visible: int, reconstruct: int, decoder_depth: int) -> Cost:
    tokens = visible + reconstruct
    bridge = visible * shape.embed_dim * shape.decoder_embed_dim
    decoder = bridge + _blocks(tokens, shape.decoder_embed_dim, decoder_depth)
    head = reconstruct * shape.decoder_embed_dim * 1536
    return Cost(embed, _blocks(visible, shape.embed_dim, shape.depth), decoder, head, visible, tokens)


def _blocks(tokens: int, width: int, depth: int) -> int:
    """Per block: qkv 3, projection 1, MLP 8 squares of the width per token; scores and mixing 2 products of tokens."""
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def flops_table(frames: int = 16, resolution: int = 224) -> list[CostRow]:
    """Every size x stage x strategy at the papers' ratios: what `everest flops` prints.

    Without strategies that decide by clip how many tokens they keep: see :func:`cost_of_counts`.
    """
    rows: list[CostRow] = []
    for size in SIZES:
        fixed = {name: one for name, one in STRATEGIES.items() if one.planned_as is None}
        for name, strategy in fixed.items():
            if strategy.ratios:
                keep, visible = strategy.ratios
                cost = multiply_adds(
                    size,
                    "pretrain",
                    strategy=name,
                    keep_ratio=keep,
                    visible_ratio=visible,
                    frames=frames,
                    resolution=resolution,
                    decoder_depth=4,
                )
                rows.append(_row(size, "pretrain", name, keep, visible, cost))
        for name, strategy in fixed.items():
            if ratio := strategy.finetune_ratio:
                cost = multiply_adds(
                    size, "finetune", strategy=name, keep_ratio=ratio, frames=frames, resolution=resolution
                )
                rows.append(_row(size, "finetune", name, ratio, None, cost))
    return rows


def _row(size: str, stage: str, strategy: str, keep: float, visible: float | None, cost: Cost) -> CostRow:
    return {
        "size": size,
        "stage": stage,
        "strategy": strategy,
        "keep_ratio": keep,
        "visible_ratio": visible,
        "gmacs_per_clip": round(cost.multiply_adds / 1e9, 3),
        "encoder_tokens": cost.encoder_tokens,
        "decoder_tokens": cost.decoder_tokens,
    }
