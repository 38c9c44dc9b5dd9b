"""What of a classifier learns in a fine-tuning, and what a training step then costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from models.registry import SIZES
from models.tuning.lora import add_adapters

if TYPE_CHECKING:
    from models.classifier import EverestClassifier
    from models.cost import Cost

#: Forward-equivalents of a step in which all learns: the backward pass costs two.
ALL_PASSES = 3.0


@dataclass(frozen=True)
class Learning:
    """What learns beside pooling, last norm and head, which always do.

    Attributes:
        train: `all`; `last-N`: the last N blocks; `norm`: the norms of all blocks; `head`: nothing else.
        rank: of low-rank adapters in every block's attention, which learn as well; None: there are none.
        alpha: what the adapters add is multiplied by `alpha / rank`.
    """

    train: str = "all"
    rank: int | None = None
    alpha: float = 16.0

    @property
    def last(self) -> int | None:
        """The N of `last-N`."""
        return int(self.train.removeprefix("last-")) if self.train.startswith("last-") else None


def arrange(classifier: EverestClassifier, learning: Learning) -> None:
    """Freeze what does not learn, and add the adapters. To be called once, after the weights are in."""
    if learning.train != "all":
        classifier.freeze_encoder()
    if learning.train == "head" and learning.rank is None:
        # Nothing in the blocks learns: the head would learn from other features than it is asked for later.
        classifier.blocks.rates = [0.0] * len(classifier.blocks.rates)
    if learning.last:
        for block in list(classifier.blocks)[-learning.last :]:
            block.requires_grad_(True)
    if learning.train == "norm":
        for module in classifier.blocks.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
    if learning.rank is not None:
        add_adapters(classifier.blocks, learning.rank, learning.alpha)


def with_adapters(cost: Cost, size: str, learning: Learning) -> Cost:
    """The cost of a forward pass with the adapters that a training has; an exported model has none."""
    shape = SIZES[size]
    return cost._replace(encoder=cost.encoder + shape.depth * _adapters(cost.encoder_tokens, shape.embed_dim, learning))


def passes(cost: Cost, size: str, learning: Learning) -> float:
    """Multiply-adds of a training step over those of its forward pass (`cost`, its adapters included).

    A linear map's backward pass is a product for the gradient of its input and one for that of its weight: the second
    is left out where the weight is frozen, both where nothing before it learns.
    """
    if learning.train == "all":
        return ALL_PASSES
    shape, tokens = SIZES[size], cost.encoder_tokens
    linear, attention = 12 * tokens * shape.embed_dim**2, 2 * tokens**2 * shape.embed_dim
    adapters = _adapters(tokens, shape.embed_dim, learning)
    backward = 2 * cost.head
    if learning.last:
        backward += min(learning.last, shape.depth) * 2 * (linear + attention)
    elif learning.train == "norm" or learning.rank is not None:
        backward += shape.depth * (linear + 2 * attention + 2 * adapters)
    if learning.train == "head" and learning.rank is not None:
        # Nothing before the first block's adapters learns.
        backward -= 3 * tokens * shape.embed_dim**2 + tokens * shape.embed_dim * learning.rank
    return 1 + backward / cost.multiply_adds


def _adapters(tokens: int, width: int, learning: Learning) -> int:
    """Multiply-adds of one block's adapters: width to rank to three widths, and to one."""
    return 6 * tokens * width * (learning.rank or 0)
