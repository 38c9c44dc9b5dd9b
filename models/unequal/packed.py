"""Clips of unequal token counts without padding: their real tokens lie one after the other in one row.

Linears, MLPs and norms see one long clip; only attention must know where each clip ends. On a GPU in half precision it
is torch's attention over variable lengths, elsewhere each run of equally long clips is one fused call: clips lie in the
order of their lengths, so equal ones are neighbours.

Shapes: B clips, K tokens of a padded clip, M real tokens of all clips, D width, X heads, Y width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

import torch
from torch import Tensor

#: Queries, keys, values [3, B, X, N, Y] -> mixed values [B, X, N, Y].
Attend: TypeAlias = Callable[[Tensor], Tensor]


class Rows:
    """Where the real tokens of clips lie in one row.

    Nothing here waits for the device: `lengths` are on the host already, where the sizes of kernels are decided.

    Attributes:
        lengths: real tokens of each clip, in the order in which clips lie in the row.
        order_B: number of the clip at each place of that order.
        count_B, begin_B: tokens of each clip and where they begin, by clip number.
        clip_M, rank_M: which clip each token is of, and its number in that clip.
    """

    def __init__(self, count_B: Tensor, lengths: Sequence[int], order_B: Tensor) -> None:
        """`count_B`: tokens by clip number; `lengths`: the same numbers on the host, in the order of `order_B`."""
        self.lengths, self.order_B, self.count_B = tuple(lengths), order_B, count_B
        length_B = count_B.gather(0, order_B)
        end_B = length_B.cumsum(0)
        self.start_B1 = torch.cat([end_B.new_zeros(1), end_B]).int()
        self.begin_B = (end_B - length_B).scatter(0, order_B, end_B - length_B)
        tokens = sum(self.lengths)
        self.clip_M = torch.repeat_interleave(order_B, length_B, output_size=tokens)
        self.rank_M = torch.arange(tokens, device=count_B.device) - self.begin_B.index_select(0, self.clip_M)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def pack(self, x_BK: Tensor) -> Tensor:
        """The real tokens [1, M, ...] of padded rows [B, K, ...]."""
        packed: Tensor = in_one_row(x_BK).index_select(1, self.clip_M * x_BK.shape[1] + self.rank_M)
        return packed

    def unpack(self, x_1MD: Tensor) -> Tensor:
        """Padded rows [B, K, D], 0 where nothing is real."""
        empty_LD = x_1MD.new_zeros(len(self.lengths) * self.longest, x_1MD.shape[2])
        padded_LD: Tensor = empty_LD.index_copy(0, self.clip_M * self.longest + self.rank_M, x_1MD[0])
        return padded_LD.view(len(self.lengths), self.longest, -1)

    def among_all(self, index_1M: Tensor, tokens: int) -> Tensor:
        """Index [1, M] among the B * `tokens` tokens of all clips, of an index in each token's own clip."""
        return index_1M + self.clip_M * tokens

    def valid(self) -> Tensor:
        """Which tokens of rows padded to the longest are real [B, K]."""
        return torch.arange(self.longest, device=self.count_B.device) < self.count_B[:, None]

    def mean(self, x_1MD: Tensor) -> Tensor:
        """The mean of each clip's tokens [B, D], by clip number."""
        sums_BD = x_1MD.new_zeros(len(self.lengths), x_1MD.shape[2]).index_add(0, self.clip_M, x_1MD[0])
        return sums_BD / self.count_B[:, None]

    def spread(self, x_KB11: Tensor) -> Tensor:
        """A number for each clip [K, B, 1, 1] as one for each token [K, 1, M, 1]."""
        return x_KB11.index_select(1, self.clip_M).transpose(1, 2)


def rows_of(count_B: Tensor) -> Rows:
    """The rows of clips with so many tokens each. Waits for the device: counts must be known on the host."""
    ordered_B, order_B = count_B.sort(stable=True)
    return Rows(count_B, ordered_B.tolist(), order_B)


def joined(first: Rows, second: Rows) -> tuple[Rows, Tensor, Tensor]:
    """The rows of clips that have the tokens of `first` and then those of `second`, and the places of both there.

    Both name the clips in the same order.
    """
    lengths = [one + other for one, other in zip(first.lengths, second.lengths, strict=True)]
    both = Rows(first.count_B + second.count_B, lengths, first.order_B)
    place_M = both.begin_B.index_select(0, first.clip_M) + first.rank_M
    after_B = both.begin_B + first.count_B
    return both, place_M, after_B.index_select(0, second.clip_M) + second.rank_M


def in_one_row(x_BND: Tensor) -> Tensor:
    """All tokens of all clips as those of one [1, B*N, D]."""
    return x_BND.flatten(0, 1)[None]


def attend_rows(qkv_M3XY: Tensor, rows: Rows, attend: Attend) -> Tensor:
    """Attention of each clip's tokens to one another [M, X, Y].

    Args:
        attend: attention of clips of equal lengths, for what variable-length attention does not take.
    """
    if qkv_M3XY.is_cuda and qkv_M3XY.dtype in (torch.float16, torch.bfloat16):
        # Imported late: what runs on a CPU needs none of its kernels.
        from torch.nn.attention.varlen import varlen_attn

        q_MXY, k_MXY, v_MXY = qkv_M3XY.unbind(1)
        clips = rows.start_B1, rows.start_B1, rows.longest, rows.longest
        mixed_MXY = varlen_attn(q_MXY, k_MXY, v_MXY, *clips)
        assert isinstance(mixed_MXY, Tensor), "a pair only where the scores' logarithms are asked for"
        return mixed_MXY
    runs = [(length, len(list(equal))) for length, equal in groupby(rows.lengths)]
    parts = qkv_M3XY.split([length * clips for length, clips in runs])
    mixed = [
        attend(part_M3XY.unflatten(0, (clips, length)).permute(2, 0, 3, 1, 4))
        for part_M3XY, (length, clips) in zip(parts, runs, strict=True)
    ]
    return torch.cat([mixed_BXNY.transpose(1, 2).flatten(0, 1) for mixed_BXNY in mixed])
