"""Random erasing of boxes; soft targets, mixup and cutmix within pairs of neighbouring clips.

Clips 2i and 2i+1 of a batch are partners. A micro-batch of an even number of videos therefore holds both, of two
videos and whatever the number of ranks, so mixing does not depend on the rank layout. Each clip of a pair has the
same share of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.data import sampling
from pipeline.data.pixels.crop import draws
from pipeline.data.pixels.device import to_device
from pipeline.errors import InputError
from pipeline.multilabel.labels import multi_hot

if TYPE_CHECKING:
    from pipeline.data.batch import Batch


#: Share of the area that is erased, and aspect ratio of the box (Zhong et al., as the recipes use it).
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10


def soft_targets(labels_B: Tensor, classes: int, smoothing: float) -> Tensor:
    """[B, K] float32: `1 - smoothing` on the label plus `smoothing / K` on every class."""
    targets_BK = torch.full((len(labels_B), classes), smoothing / classes, device=labels_B.device)
    return targets_BK.scatter_add_(1, labels_B[:, None], torch.full_like(targets_BK[:, :1], 1 - smoothing))


def several_targets(sets: Sequence[tuple[int, ...]], classes: int, smoothing: float) -> Tensor:
    """[B, K] float32 for sigmoids: 1 on each clip's classes, `smoothing` of each target moved to one half.

    Each class is a decision of its own between two outcomes, and smoothing mixes it with an even chance of both; over
    the classes, as a softmax's, it would say how many of them a clip has.
    """
    targets_BK = torch.from_numpy(multi_hot(sets, classes)).float()
    return targets_BK * (1 - smoothing) + smoothing / 2


def mix(clip_BCTHW: Tensor, targets_BK: Tensor, batch: Batch, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix clips with their partners: `share * own + (1 - share) * partner`, or a box of the partner (cutmix).

    Targets are mixed in the same shares, those of several classes too: what both clips show stays whole, what one of
    them shows counts by how much of it is seen.

    `share` is Beta(alpha, alpha); with both on, each is used for half of the pairs. Cutmix's box is the same
    in all frames and its share is corrected to the box's true area.

    Raises:
        InputError: mixing an odd number of clips.
    """
    if mixup <= 0 and cutmix <= 0:
        return clip_BCTHW, targets_BK
    count = len(clip_BCTHW)
    if count % 2:
        raise InputError(
            f"mixup and cutmix mix pairs of clips, a micro-batch has {count}. Cure: an even batch per rank."
        )
    height, width = clip_BCTHW.shape[-2:]
    share_B, boxes_B4, cut_B = mix_plan(batch, mixup, cutmix, height, width)
    device = clip_BCTHW.device
    partner_B = torch.arange(count, device=device) ^ 1
    share = to_device(torch.from_numpy(share_B).float(), device)
    inside_BHW = to_device(torch.from_numpy(_inside(boxes_B4, height, width)), device)
    cut = to_device(torch.from_numpy(cut_B), device)
    weight_BHW = torch.where(cut[:, None, None], 1.0 - inside_BHW.float(), share[:, None, None])
    weight = weight_BHW[:, None, None]
    mixed = torch.lerp(clip_BCTHW[partner_B], clip_BCTHW, weight.expand_as(clip_BCTHW))
    return mixed, torch.lerp(targets_BK[partner_B], targets_BK, share[:, None].expand_as(targets_BK))


def mix_plan(
    batch: Batch, mixup: float, cutmix: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(share of the own clip [B], boxes (top, left, bottom, right) [B, 4], whether cutmix [B]); equal in a pair."""
    # A pair draws as its first clip does.
    first = np.repeat(batch.sample_B.numpy()[::2], 2)
    u = sampling.uniforms(batch.seed, batch.epoch, first, "mix", 3)
    cut_B = u[:, 0] < 0.5 if mixup > 0 and cutmix > 0 else np.full(len(first), cutmix > 0)
    share = np.where(cut_B, _beta(batch, first, cutmix), _beta(batch, first, mixup))
    side = np.sqrt(1 - share)
    tall, wide = (height * side).astype(int), (width * side).astype(int)
    middle_y, middle_x = (u[:, 1] * height).astype(int), (u[:, 2] * width).astype(int)
    top, bottom = np.clip(middle_y - tall // 2, 0, height), np.clip(middle_y + tall // 2, 0, height)
    left, right = np.clip(middle_x - wide // 2, 0, width), np.clip(middle_x + wide // 2, 0, width)
    true = 1 - (bottom - top) * (right - left) / (height * width)
    return np.where(cut_B, true, share), np.stack([top, left, bottom, right], axis=1), cut_B


def _inside(boxes_B4: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = np.arange(height), np.arange(width)
    top, left, bottom, right = (boxes_B4[:, k : k + 1] for k in range(4))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    inside: np.ndarray = rows[:, :, None] & columns[:, None, :]
    return inside


def _beta(batch: Batch, samples: np.ndarray, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) numbers [B], each from its own generator seeded by the sample."""
    if alpha <= 0:
        return np.ones(len(samples))
    seeds = (sampling.uniforms(batch.seed, batch.epoch, samples, "beta", 1)[:, 0] * 2**53).astype(np.uint64)
    return np.asarray([np.random.Generator(np.random.Philox(int(seed))).beta(alpha, alpha) for seed in seeds])


def erase_boxes(batch: Batch, probability: float, height: int, width: int) -> np.ndarray:
    """(top, left, height, width) of what is erased, [B, 4]; height 0 where nothing is."""
    u = draws(batch, "erase", 1 + 4 * ATTEMPTS)
    chosen, tries = u[:, 0] < probability, u[:, 1:].reshape(len(u), ATTEMPTS, 4)
    area = height * width * (AREA[0] + tries[..., 0] * (AREA[1] - AREA[0]))
    aspect = np.exp(np.log(ASPECT[0]) + tries[..., 1] * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
    tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    tall, wide, place = tall[rows, first], wide[rows, first], tries[rows, first]
    top, left = np.floor(place[:, 2] * (height - tall + 1)), np.floor(place[:, 3] * (width - wide + 1))
    boxes = np.stack([top, left, tall, wide], axis=1).astype(np.int64)
    boxes[~(chosen & fits.any(axis=1))] = 0
    return boxes


def random_erase(clip_BCTHW: Tensor, batch: Batch, probability: float) -> Tensor:
    """Fill each chosen clip's box with standard normal noise (after normalisation), in place.

    The noise comes from a generator on the clip's device that is seeded by the sample.
    """
    device = clip_BCTHW.device
    boxes = erase_boxes(batch, probability, *clip_BCTHW.shape[-2:])
    seeds = (draws(batch, "erase-noise", 1)[:, 0] * 2**53).astype(np.int64)
    generator = torch.Generator(device)
    for row in np.flatnonzero(boxes[:, 2]):
        top, left, tall, wide = boxes[row].tolist()
        part = clip_BCTHW[row, :, :, top : top + tall, left : left + wide]
        noise = torch.randn(part.shape, generator=generator.manual_seed(int(seeds[row])), device=device)
        part.copy_(noise)
    return clip_BCTHW
