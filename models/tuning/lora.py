"""Low-rank adapters on the attention's two linear maps (LoRA, Hu et al. 2021), and their merging into the weights.

Our own lines instead of the package `peft`: the attention reads `qkv.weight` itself, to add a bias to queries and
values only, so that a wrapper around the module `qkv`, which is how peft adapts, would never be called; and peft's
names and saved format are not those of our checkpoints.

Shapes: B clips, N tokens, D width, R rank, O values of the adapted map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.vit import Blocks

#: Adapter of an attention -> the linear map that it is added to.
ADAPTED = {"qkv_adapter": "qkv", "proj_adapter": "proj"}


class Adapter(nn.Module):
    """`alpha / rank * up(down(x))`: 0 at first, since `up` is."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x_BND: Tensor) -> Tensor:
        added_BNO: Tensor = self.up(self.down(x_BND)) * self.scale
        return added_BNO


def add_adapters(blocks: Blocks, rank: int, alpha: float) -> None:
    """Give each block's attention an adapter of `qkv` and one of `proj`."""
    for block in blocks:
        for name, linear in ADAPTED.items():
            setattr(block.attn, name, Adapter(getattr(block.attn, linear), rank, alpha))


def merged(state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state without adapters: each is added to its weight, `W + alpha / rank * up @ down`, multiplied in fp64."""
    plain = {name: value for name, value in state.items() if not _is_adapter(name)}
    for name, up_OR in state.items():
        if not _is_adapter(name) or not name.endswith(".up.weight"):
            continue
        path, adapter = name.removesuffix(".up.weight").rsplit(".", 1)
        down_RD = state[f"{path}.{adapter}.down.weight"]
        weight = f"{path}.{ADAPTED[adapter]}.weight"
        added_OD = up_OR.double() @ down_RD.double() * (alpha / len(down_RD))
        plain[weight] = (plain[weight].double() + added_OD).to(torch.float32).to(plain[weight].dtype)
    return plain


def _is_adapter(name: str) -> bool:
    return any(f".{adapter}." in name for adapter in ADAPTED)
