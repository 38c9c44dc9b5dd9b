"""Clips of one micro-batch, as they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.data import sampling


@dataclass
class Batch:
    """Clips of one micro-batch, as read.

    Attributes: clips_BTHWC: uint8 RGB. Where sizes differ, clips lie at the top left and zeros fill the rest.
    sizes_B2: int64, height and width of each clip's own frames. labels_B: int64, -1 where there is none.
    index_B: int64, the row of the data set that was read. sample_B: int64, the row that was asked for and its
    repetition: what all randomness of a sample derives from. frames_BT: int64, the frame numbers. seed,
    epoch: the rest of what randomness derives from. replaced: clips that could not be read and were replaced.
    errors: (video id, reason) of those. label_sets: all classes of each clip, in a set whose videos have several.
    """

    clips_BTHWC: Tensor
    sizes_B2: Tensor
    labels_B: Tensor
    index_B: Tensor
    sample_B: Tensor
    frames_BT: Tensor
    seed: int
    epoch: int
    replaced: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    label_sets: list[tuple[int, ...]] = field(default_factory=list)

    def uniforms(self, stream: str, count: int) -> Tensor:
        """Random numbers in [0, 1) for each sample, [B, count] float32: the same on any rank and after a resume."""
        samples = self.sample_B.numpy()
        return torch.from_numpy(sampling.uniforms(self.seed, self.epoch, samples, stream, count)).float()
