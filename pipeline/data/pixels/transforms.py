"""From uint8 batches to what a model takes: batched on the device, in uint8 until normalisation.

Every transform is `transform(batch, device) -> (clip_BCTHW, targets)`. All random numbers come from
`sampling.uniforms(seed, epoch, sample)`: a sample is augmented the same on any rank, with any number of
workers, and after a resume. What is drawn for a clip holds for all its frames.

Shapes: B clips, C channels, T frames, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.pixels import crop
from pipeline.data.pixels.buffers import Buffers
from pipeline.data.pixels.device import exact, to_device
from pipeline.data.pixels.mix import mix, random_erase, several_targets, soft_targets
from pipeline.data.pixels.normalise import model_pixels, normalise
from pipeline.data.pixels.randaugment import RandAugment
from pipeline.data.pixels.resize import crop_resize


class PretrainTransform:
    """Multi-scale crop and flip (METHOD section 7, pre-training); no targets.

    On a GPU clips stay uint8: the autoencoder normalises what it cuts; a normalised copy would be four times as large.

    Args:
        resolution: of the clip in pixels.
        scales: crop sides as shares of the short side.
        flip: probability of a horizontal flip.
    """

    def __init__(self, resolution: int, scales: Sequence[float], flip: float = 0.0) -> None:
        self.resolution, self.scales, self.flip = resolution, tuple(scales), flip
        self._buffers = Buffers()

    def __call__(self, batch: Batch, device: torch.device | str) -> tuple[Tensor, None]:
        with exact(device):
            return self._pixels(batch, device), None

    def _pixels(self, batch: Batch, device: torch.device | str) -> Tensor:
        boxes_B4 = crop.multi_scale_boxes(batch, self.scales)
        flips_B = flips(batch, self.flip)
        clip_BTHWC = crop_resize(batch.clips_BTHWC, boxes_B4, self.resolution, device, flips_B, self._buffers)
        if clip_BTHWC.device.type == "cuda":
            return clip_BTHWC.permute(0, 4, 1, 2, 3)
        return normalise(clip_BTHWC, self._buffers)


class FinetuneTransform:
    """Random-resized crop, flip, RandAugment, random erasing, mixup or cutmix, label smoothing.

    Args:
        resolution: of the clip in pixels.
        classes: K.
        crop_scale, crop_ratio: area share and aspect ratio of the crop.
        rand_augment: such as `m7-n4-mstd0.5-inc1`, or None.
        random_erasing: probability for each clip.
        mixup, cutmix: alpha of the Beta distribution, 0 is off.
        several: clips have several classes each, and targets are for sigmoids.

    The targets are soft, [B, K] float32, also where nothing is mixed.
    """

    def __init__(
        self,
        resolution: int,
        classes: int,
        *,
        crop_scale: Sequence[float] = (0.08, 1.0),
        crop_ratio: Sequence[float] = (0.75, 4 / 3),
        flip: float = 0.5,
        rand_augment: str | None = None,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
        several: bool = False,
    ) -> None:
        self.resolution, self.classes, self.flip = resolution, classes, flip
        self.crop_scale, self.crop_ratio = tuple(crop_scale), tuple(crop_ratio)
        self.rand_augment = RandAugment(rand_augment) if rand_augment else None
        self.random_erasing, self.mixup, self.cutmix = random_erasing, mixup, cutmix
        self.label_smoothing, self.several = label_smoothing, several
        self._buffers = Buffers()

    def __call__(self, batch: Batch, device: torch.device | str) -> tuple[Tensor, Tensor]:
        with exact(device):
            return self._mixed(batch, device)

    def _mixed(self, batch: Batch, device: torch.device | str) -> tuple[Tensor, Tensor]:
        boxes_B4 = crop.random_resized_boxes(batch, self.crop_scale, self.crop_ratio)
        flips_B = flips(batch, self.flip)
        clip_BTHWC = crop_resize(batch.clips_BTHWC, boxes_B4, self.resolution, device, flips_B, self._buffers)
        if self.rand_augment is not None:
            clip_BTHWC = self.rand_augment(clip_BTHWC, batch)
        clip_BCTHW = normalise(clip_BTHWC, self._buffers)
        if self.random_erasing > 0:
            clip_BCTHW = random_erase(clip_BCTHW, batch, self.random_erasing)
        if self.several:
            targets_BK = to_device(several_targets(batch.label_sets, self.classes, self.label_smoothing), device)
        else:
            targets_BK = soft_targets(to_device(batch.labels_B, device), self.classes, self.label_smoothing)
        return mix(clip_BCTHW, targets_BK, batch, self.mixup, self.cutmix)


class EvalTransform:
    """The centre square of the short side's length, resized; targets are the labels [B] int64."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def __call__(self, batch: Batch, device: torch.device | str) -> tuple[Tensor, Tensor]:
        pixels = model_pixels(batch.clips_BTHWC, self.resolution, device, batch.sizes_B2)
        return pixels, to_device(batch.labels_B, device)


def flips(batch: Batch, probability: float) -> np.ndarray:
    """Which clips are mirrored, [B] bool."""
    chosen: np.ndarray = crop.draws(batch, "flip", 1)[:, 0] < probability
    return chosen
