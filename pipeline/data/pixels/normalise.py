"""The one way from frames to what a model takes: the centred square, resized in 8 bits, normalised.

Validation, test, prediction and pictures all come through :func:`model_pixels`, so the same frames are the same pixels
in each of them; training draws its boxes and then shares the rest.

Shapes: B clips or views, C channels, T frames, H x W pixels, R the model's resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.tokens import IMAGENET_MEAN, IMAGENET_STD, normalised
from pipeline.data.arrays import Ints
from pipeline.data.pixels import fused_resize
from pipeline.data.pixels.buffers import Buffers
from pipeline.data.pixels.device import exact
from pipeline.data.pixels.resize import centre_boxes, crop_resize, resize_by_products

#: float32 values of a piece that a CPU's second-level cache holds.
CACHE_VALUES = 75_000


def model_pixels(
    clips_BTHWC: Tensor, resolution: int, device: torch.device | str, sizes_B2: Tensor | None = None
) -> Tensor:
    """Clips as a model takes them when nothing is drawn: the centred square, resized and normalised.

    A clip's pixels are the same to the bit in any batch: it is resized by itself.

    Args:
        sizes_B2: (height, width) of each clip within its padding; by default nothing is padding.

    Returns:
        float32 [B, 3, T, R, R] on the device.
    """
    if sizes_B2 is None:
        sizes_B2 = torch.tensor([clips_BTHWC.shape[2:4]] * len(clips_BTHWC))
    with exact(device):
        return _centred(clips_BTHWC, resolution, torch.device(device), centre_boxes(sizes_B2))


def _centred(clips_BTHWC: Tensor, resolution: int, device: torch.device, boxes_B4: Ints) -> Tensor:
    if device.type == "cpu" or fused_resize.usable():
        return normalise(crop_resize(clips_BTHWC, boxes_B4, resolution, device))
    clips_BTHWC = clips_BTHWC.to(device, non_blocking=True)
    resized = []
    for clip_THWC, (top, left, height, width) in zip(clips_BTHWC, boxes_B4.tolist(), strict=True):
        # Products of one shape, whatever the batch and its padding: a GPU may add up others in another order.
        square_1THWC = clip_THWC[None, :, top : top + height, left : left + width].contiguous()
        box = np.asarray([[0, 0, height, width]])
        resized.append(resize_by_products(square_1THWC, box, resolution, np.zeros(1, dtype=bool)))
    return normalise(torch.cat(resized))


def normalise(clip_BTHWC: Tensor, buffers: Buffers | None = None) -> Tensor:
    """uint8 [B,T,H,W,C] to float32 [B,C,T,H,W] with ImageNet's mean and deviation.

    The result is a view: in memory the channels stay where the frames had them.
    """
    if clip_BTHWC.device.type != "cpu":  # one pass
        return normalised(clip_BTHWC.permute(0, 4, 1, 2, 3), channel=1)
    width = clip_BTHWC.shape[3] * 3
    source = clip_BTHWC.reshape(-1, width)
    if buffers is not None:
        result = buffers.take(tuple(clip_BTHWC.shape), torch.float32)
    else:
        result = torch.empty(clip_BTHWC.shape, dtype=torch.float32)
    # Whole pixel rows at once: an innermost dimension of 3 would not vectorise; and as many of them as stay in the
    # cache over the three passes.
    piece = max(1, CACHE_VALUES // width)
    repeats = (min(piece, len(source)), width // 3)
    scale = torch.tensor([1 / (255 * d) for d in IMAGENET_STD]).repeat(*repeats)
    offsets = [-m / d for m, d in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    shift = torch.tensor(offsets).repeat(*repeats)
    for target, values in zip(result.view(-1, width).split(piece), source.split(piece), strict=True):
        target.copy_(values).mul_(scale[: len(target)]).add_(shift[: len(target)])
    return result.permute(0, 4, 1, 2, 3)


def denormalise(clip_BCTHW: Tensor) -> Tensor:
    """Normalised clips [B, C, ...] as pixels in [0, 1], of the same shape."""
    shape = (1, 3, *[1] * (clip_BCTHW.ndim - 2))
    mean, deviation = (clip_BCTHW.new_tensor(value).view(shape) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (clip_BCTHW * deviation + mean).clamp(0, 1)
