"""The video ViT: tubelet embedding and pre-norm blocks (METHOD sections 1 and 5). Single device, no files.

Shapes: B clips, N tokens, D width, O = 3 D, P values of a tubelet, V chosen tokens, X heads, Y width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.utils.checkpoint import checkpoint

from models.tokens import in_product_type, sinusoid_table, take
from models.unequal.packed import Rows, attend_rows

#: Which tokens of padded clips are real [B, N]; or the clips of a packed row; None: all tokens are real.
Real: TypeAlias = Tensor | Rows | None

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Self-attention with a bias on queries and values; one on keys would cancel in the softmax.

    The adapters, where there are some (`models.tuning.lora`), add to what `qkv` and `proj` give.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads. Cure: a multiple of {heads}.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.qkv_adapter: nn.Module | None = None
        self.proj_adapter: nn.Module | None = None

    def forward(self, x_BND: Tensor, valid_BN: Real = None) -> Tensor:
        qkv_BN3XY = self.heads_of(x_BND)
        if isinstance(valid_BN, Rows):
            return self.joined(attend_rows(qkv_BN3XY[0], valid_BN, attend).flatten(1)[None])
        return self.joined(attend(qkv_BN3XY.permute(2, 0, 3, 1, 4), valid_BN).transpose(1, 2).flatten(2))

    def heads_of(self, x_BND: Tensor) -> Tensor:
        """Queries, keys and values of all heads [B, N, 3, X, Y]."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv_BNO = F.linear(x_BND, self.qkv.weight, bias)
        if self.qkv_adapter is not None:
            qkv_BNO = qkv_BNO + self.qkv_adapter(x_BND)
        split_BN3XY: Tensor = qkv_BNO.unflatten(2, (3, self.heads, -1))
        return split_BN3XY

    def joined(self, mixed_BND: Tensor) -> Tensor:
        """What the heads gave, side by side, projected."""
        projected_BND: Tensor = self.proj(mixed_BND)
        return projected_BND if self.proj_adapter is None else projected_BND + self.proj_adapter(mixed_BND)


def attend(qkv_3BXNY: Tensor, valid_BN: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention [B, X, N, Y]; tokens that are not valid are not attended to.

    A mask of floats is added to the scores of each key instead.

    Training in bf16 on a CPU takes plain products: the fused kernel's backward pass does not use the matrix
    unit there and measured 2 to 5 times slower. Everything else is fused.
    """
    mask = None if valid_BN is None else valid_BN[:, None, None, :]
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(qkv_3BXNY.dtype)
    if qkv_3BXNY.device.type != "cpu" or qkv_3BXNY.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        q_BXNY, k_BXNY, v_BXNY = qkv_3BXNY.unbind(0)
        return F.scaled_dot_product_attention(q_BXNY, k_BXNY, v_BXNY, attn_mask=mask)
    # One copy puts the heads apart for all products, here and in the backward pass.
    q_BXNY, k_BXNY, v_BXNY = qkv_3BXNY.contiguous().unbind(0)
    score_BXNN: Tensor = (q_BXNY * q_BXNY.shape[-1] ** -0.5) @ k_BXNY.transpose(-1, -2)
    if mask is not None and mask.dtype != torch.bool:
        score_BXNN = score_BXNN + mask
    elif mask is not None:
        score_BXNN = score_BXNN.masked_fill(~mask, -torch.inf)
    return score_BXNN.softmax(dim=-1) @ v_BXNY


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        mapped_BND: Tensor = self.fc2(F.gelu(self.fc1(x_BND)))
        return mapped_BND


class Block(nn.Module):
    """A pre-norm block. `keep_2B11`: what drop-path leaves of each branch of each clip, 0 or 1 / (1 - rate).

    Drawn outside, so that blocks of any rate compile to one graph.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x_BND: Tensor, valid_BN: Real = None, keep_2B11: Tensor | None = None) -> Tensor:
        mixed_BND: Tensor = self.attn(self.norm1(x_BND), valid_BN)
        x_BND = x_BND + (mixed_BND if keep_2B11 is None else mixed_BND * keep_2B11[0])
        mapped_BND: Tensor = self.mlp(self.norm2(x_BND))
        return x_BND + (mapped_BND if keep_2B11 is None else mapped_BND * keep_2B11[1])


class Blocks(nn.ModuleList):
    """Blocks in a row; drop-path grows linearly from 0; `checkpointing` recomputes each block in the backward pass."""

    checkpointing = False

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]

    def forward(self, x_BND: Tensor, valid_BN: Real = None) -> Tensor:
        return self.through(x_BND, valid_BN, [self.keep(number, x_BND, valid_BN) for number in range(len(self))])

    def through(self, x_BND: Tensor, valid_BN: Real, keeps: Sequence[Tensor | None]) -> Tensor:
        """All blocks, with what drop-path leaves of each: nothing is drawn here, compiled or not."""
        for block, keep_2B11 in zip(self, keeps, strict=True):
            x_BND = self._one(block, x_BND, valid_BN, keep_2B11)
        return x_BND

    def run(self, number: int, x_BND: Tensor, valid_BN: Real = None) -> Tensor:
        """One block."""
        return self._one(self[number], x_BND, valid_BN, self.keep(number, x_BND, valid_BN))

    def keep(self, number: int, x_BND: Tensor, valid_BN: Real) -> Tensor | None:
        """What drop-path leaves of a block, drawn; None: all of it."""
        rate = self.rates[number]
        if not (self.training and rate):
            return None
        rows = valid_BN if isinstance(valid_BN, Rows) else None
        keep_2B11 = drop_path(x_BND, rate, None if rows is None else len(rows.lengths))
        return keep_2B11 if rows is None else rows.spread(keep_2B11)

    def _one(self, block: nn.Module, x_BND: Tensor, valid_BN: Real, keep_2B11: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            result_BND: Tensor = checkpoint(block, x_BND, valid_BN, keep_2B11, use_reentrant=False)
        else:
            result_BND = block(x_BND, valid_BN, keep_2B11)
        return result_BND


def drop_path(x_BND: Tensor, rate: float, clips: int | None = None) -> Tensor:
    """What stochastic depth (Huang et al. 2016) leaves of a block's two branches, [2, B, 1, 1], as timm scales it.

    Args:
        clips: how many clips a packed row holds; None: `x_BND` has one for each row.
    """
    kind = in_product_type(x_BND[:1, :0]).dtype  # the type of the branches
    kept = [
        x_BND.new_empty((clips or len(x_BND), 1, 1), dtype=kind).bernoulli_(1 - rate).div_(1 - rate) for _ in range(2)
    ]
    return torch.stack(kept)


class CompileOptions(TypedDict, total=False):
    """Arguments of `torch.compile`."""

    fullgraph: bool
    dynamic: bool | None
    backend: str
    mode: str


def compile_method(module: nn.Module, name: str, options: CompileOptions) -> None:
    """Let a module's method compile itself at its first call; hooks and names of parameters stay as they are."""
    setattr(module, name, torch.compile(getattr(module, name), **options))


def begin_pass_at(module: nn.Module, name: str) -> None:
    """Let each call of a module's method begin a pass, behind which CUDA graphs may write over what they gave before.

    Without such marks torch guesses where one begins, and at a pass without gradients it guesses each graph anew.
    """
    method = getattr(module, name)

    def beginning(*arguments: object) -> object:
        torch.compiler.cudagraph_mark_step_begin()
        return method(*arguments)

    setattr(module, name, beginning)


class TubeletEmbedding(nn.Module):
    """A 3-D convolution with kernel = stride, as the linear map that it is.

    It is initialised as torch initialises a convolution. All tokens are embedded, to be scored; few are used. So
    `forward` records nothing and `used` gives the chosen rows a gradient: the backward pass multiplies 156 tokens of
    1568, not all.
    """

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(values, width)

    def forward(self, tubelets_BNP: Tensor) -> Tensor:
        with torch.no_grad():
            embedded_BND: Tensor = self.proj(tubelets_BNP)
        return embedded_BND

    def used(self, tubelets_BNP: Tensor, embedded_BND: Tensor, index_BV: Tensor) -> Tensor:
        """The embedded tokens at `index_BV` [B, V, D], with the gradient of the linear map."""
        rows = take(tubelets_BNP, index_BV), self.proj.weight, self.proj.bias, take(embedded_BND, index_BV)
        used_BVD: Tensor = _LinearAlreadyDone.apply(*rows)
        return used_BVD


class _LinearAlreadyDone(torch.autograd.Function):
    """Forward returns a linear map's known result, backward is the linear map's."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BVP: Tensor, weight_DP: Tensor, bias_D: Tensor, result_BVD: Tensor) -> Tensor:
        ctx.save_for_backward(x_BVP, weight_DP)
        return result_BVD.clone()

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x_BVP, weight_DP = saved
        grad_BVD = grads[0]
        grad_x = (grad_BVD.to(weight_DP) @ weight_DP).to(x_BVP) if ctx.needs_input_grad[0] else None
        grad_MD = grad_BVD.flatten(0, 1)
        grad_weight = (grad_MD.t() @ x_BVP.flatten(0, 1).to(grad_MD)).to(weight_DP)
        return grad_x, grad_weight, grad_MD.sum(0).to(weight_DP), None


class Positions(nn.Module):
    """The sinusoid table as a non-persistent buffer, for clips up to the size the model was made for and beyond."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table_ND", sinusoid_table(tokens, width), persistent=False)
        self.table_ND: Tensor

    def forward(self, index_BV: Tensor, tokens: int) -> Tensor:
        """Rows [B, V, D] of the table; `tokens` is how many the clip has.

        Positions are of the flat index, so a longer clip only lengthens the table.
        """
        table_ND = self.table_ND
        if tokens > table_ND.shape[0]:
            table_ND = sinusoid_table(tokens, table_ND.shape[1]).to(table_ND)
        return table_ND.index_select(0, index_BV.flatten()).view(*index_BV.shape, -1)


def xavier_init(module: nn.Module) -> None:
    """Pre-training: xavier-uniform linears with zero bias (METHOD section 5)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def trunc_normal_init(module: nn.Module) -> None:
    """Fine-tuning: linears from a normal of 0.02, zero bias (METHOD section 5)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
