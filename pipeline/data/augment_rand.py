"""RandAugment, the same operations for all frames of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from pipeline.data.loader import Batch


class RandAugment:
    """n operations of magnitude m on every clip."""

    def __init__(self, config: str) -> None:
        self.config = config

    def __call__(self, clip_BTHWC: Tensor, batch: Batch) -> Tensor:
        raise NotImplementedError
