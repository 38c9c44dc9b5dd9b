"""What a masking strategy says of itself: one record, made in the strategy's own file.

Shapes: B clips, N tokens (time-major), K kept tokens = V visible to the encoder + R reconstructed by the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from models.selection import Budget, Grid, TokenSplit
from models.vit import Blocks

#: Scores [B, N], uniform noise [B, N], grid and budget -> which tokens are shown and which are rebuilt.
SplitRule = Callable[[Tensor, Tensor, Grid, Budget], TokenSplit]
#: Grid, keep_ratio and visible_ratio -> token counts; `models.strategies.token_budget` checks them.
BudgetRule = Callable[[Grid, float, float], Budget]
#: Scores [B, N] and their number -> kept indices [B, K].
KeepRule = Callable[[Tensor, int], Tensor]
#: Normalised tubelets [B, N, P], ReRo scores [B, N] and grid -> the scores that the strategy reads instead.
ScoreRule = Callable[[Tensor, Tensor, Grid], Tensor]
#: Scores [B, N] -> which tokens begin a run [B, N]: no others are kept, so that clips differ in their counts.
RunRule = Callable[[Tensor], Tensor]
#: Blocks, tokens [B, N, D] and how many to leave -> tokens [B, K, D] and how many each stands for [B, K].
EncodeRule = Callable[[Blocks, Tensor, int], tuple[Tensor, Tensor]]
#: Scores [B, N], reconstructed indices and the error of each [B, R] -> a further loss.
LossRule = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A masking strategy. It pre-trains where it has a `split` and a `budget`, and fine-tunes where it has a `keep`.

    Words, numbers and flags are written as literals: params.yaml is checked against them without importing torch.

    Attributes:
        name: as params.yaml names it; also the name of its file.
        sentence: what it does, for reports.
        source: the paper that it is from.
        ratios: keep_ratio and visible_ratio as published, for tables of costs; None: it does not pre-train.
        finetune_ratio: keep_ratio of fine-tuning as published; None: it does not fine-tune.
        reads_scores: whether it reads the ReRo scores; else it gets noise in their place, and none are computed.
        uses_keep_ratio: whether keep_ratio bounds what is computed.
        selects_frames: whether information-intensive frame selection belongs to it.
        planned_as: the strategy whose fixed budget bounds it, where it decides by clip how many tokens it keeps.
        merges: whether blocks join tokens; `encode` then runs them in place of `Blocks.forward`.
        split, budget: the rules of pre-training.
        keep: the rule of fine-tuning and testing.
        score, begins: scores of its own, and which tokens they let through.
        sampler: a network (encoder width, heads) that scores tokens by log-probability; `loss` teaches it.
        extra_multiply_adds: of one clip (grid, encoder width) beyond embedding, encoder and decoder.
        blocks_multiply_adds: of blocks that merge (tokens, tokens left, width, depth, heads).
    """

    name: str
    sentence: str
    source: str
    ratios: tuple[float, float] | None = None
    finetune_ratio: float | None = None
    reads_scores: bool = False
    uses_keep_ratio: bool = False
    selects_frames: bool = False
    planned_as: str | None = None
    merges: bool = False
    split: SplitRule | None = None
    budget: BudgetRule | None = None
    keep: KeepRule | None = None
    score: ScoreRule | None = None
    begins: RunRule | None = None
    encode: EncodeRule | None = None
    sampler: Callable[[int, int], nn.Module] | None = None
    loss: LossRule | None = None
    extra_multiply_adds: Callable[[Grid, int], int] | None = None
    blocks_multiply_adds: Callable[[int, int, int, int, int], int] | None = None
