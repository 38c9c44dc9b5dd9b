"""Crops, flips, erasing and mixing against their definitions, over thousands of samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from models.tokens import IMAGENET_MEAN, IMAGENET_STD
from pipeline.data.batch import Batch
from pipeline.data.pixels.crop import multi_scale_boxes, random_resized_boxes
from pipeline.data.pixels.mix import erase_boxes, mix, mix_plan, random_erase, soft_targets
from pipeline.data.pixels.normalise import normalise
from pipeline.data.pixels.resize import centre_boxes, crop_resize, resize_batched
from pipeline.data.pixels.transforms import EvalTransform, FinetuneTransform, PretrainTransform, flips
from pipeline.errors import InputError


def batch_of(
    count: int, size: tuple[int, int] = (48, 64), frames: int = 2, epoch: int = 0, pixels: bool = True
) -> Batch:
    """A batch of random pictures; without pixels only sizes, for drawing boxes."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, frames, *size, 3) if pixels else (0,)
    return Batch(
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        torch.tensor([size] * count),
        torch.arange(count) % 5,
        torch.arange(count),
        torch.arange(count),
        torch.zeros(count, frames, dtype=torch.long),
        seed=1,
        epoch=epoch,
    )


def test_multi_scale_crop_draws_scales_and_places_evenly() -> None:
    boxes = multi_scale_boxes(batch_of(13_000, (256, 340), pixels=False), (1, 0.875, 0.75, 0.66))
    sides = [256, 224, 192, 168]
    pairs = Counter((sides.index(h), sides.index(w)) for h, w in boxes[:, 2:].tolist())
    assert set(pairs) == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3
    full = boxes[(boxes[:, 2] == 168) & (boxes[:, 3] == 168)]
    places = Counter(map(tuple, full[:, :2].tolist()))
    assert len(places) == 13
    assert stats.chisquare(list(places.values())).pvalue > 1e-3
    assert ((boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] <= [256, 340])).all()


def test_random_resized_crop_has_a_uniform_area_and_a_log_uniform_ratio() -> None:
    boxes = random_resized_boxes(batch_of(20_000, (256, 256), pixels=False), (0.08, 0.4), (0.75, 4 / 3))
    share = boxes[:, 2:].prod(axis=1) / 256**2
    ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert stats.kstest(share, stats.uniform(0.08, 0.32).cdf).statistic < 0.02
    assert stats.kstest(ratio, stats.uniform(np.log(0.75), 2 * np.log(4 / 3)).cdf).statistic < 0.03
    slack = (256 - boxes[:, :2] - boxes[:, 2:]) + boxes[:, :2]
    assert abs((boxes[:, 0] / slack[:, 0]).mean() - 0.5) < 0.01
    assert ((boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] <= 256)).all()


def test_random_resized_crop_falls_back_to_the_largest_centred_box() -> None:
    boxes = random_resized_boxes(batch_of(4, (20, 200), pixels=False), (0.9, 1.0), (0.75, 4 / 3))
    assert boxes.tolist() == [[0, 86, 20, 27]] * 4


def test_flips_have_their_probability_and_zero_means_never() -> None:
    batch = batch_of(20_000, pixels=False)
    assert abs(flips(batch, 0.3).mean() - 0.3) < 0.01
    assert not flips(batch, 0.0).any()
    assert flips(batch, 1.0).all()


@pytest.mark.parametrize("box", [(0, 0, 48, 64), (3, 5, 40, 33), (10, 20, 20, 21), (16, 16, 32, 32)])
def test_resizing_on_host_and_in_batch_agree_with_pillow(box: tuple[int, int, int, int]) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
    clips = torch.from_numpy(np.asarray(image).copy())[None, None]
    boxes = np.asarray([box])
    top, left, height, width = box
    expected = image.crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BILINEAR)
    for mirrored in (False, True):
        flip = np.asarray([mirrored])
        host = crop_resize(clips, boxes, 32, "cpu", flip)[0, 0].int()
        batched = resize_batched(clips, boxes, 32, flip)[0, 0].int()
        wanted = torch.from_numpy(np.asarray(expected)[:, :: -1 if mirrored else 1].astype(np.int32))
        assert (host - wanted).abs().max() <= 1
        assert (batched - wanted).abs().max() <= 1


def test_a_crop_never_sees_the_padding_of_a_smaller_clip() -> None:
    batch = batch_of(8, (64, 64))
    batch.sizes_B2[:] = torch.tensor([40, 50])
    batch.clips_BTHWC.fill_(100)
    batch.clips_BTHWC[:, :, 40:] = 255
    batch.clips_BTHWC[:, :, :, 50:] = 255
    for transform in (PretrainTransform(32, (1, 0.75), 0.5), FinetuneTransform(32, 5), EvalTransform(32)):
        clip = transform(batch, "cpu")[0]
        expected = (100 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        assert torch.allclose(clip.amax(dim=(0, 2, 3, 4)), expected, atol=1e-5)


def test_normalising_is_the_recipes_formula() -> None:
    clip = batch_of(3).clips_BTHWC
    expected = (clip / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(normalise(clip), expected.permute(0, 4, 1, 2, 3), atol=1e-5)


def test_the_centre_crop_is_the_middle_square() -> None:
    assert centre_boxes(torch.tensor([[256, 340], [340, 256]])).tolist() == [
        [0, 42, 256, 256],
        [42, 0, 256, 256],
    ]


def test_all_frames_of_a_clip_get_the_same_crop_flip_and_operations() -> None:
    batch = batch_of(8, frames=6)
    batch.clips_BTHWC[:] = batch.clips_BTHWC[:, :1].clone()
    transform = FinetuneTransform(32, 5, rand_augment="m7-n4-mstd0.5-inc1")
    clip, _ = transform(batch, "cpu")
    assert torch.equal(clip[:, :, 0], clip[:, :, 5])


def test_a_sample_is_augmented_alike_alone_and_in_company() -> None:
    whole = batch_of(6, frames=4)
    transform = FinetuneTransform(32, 5, rand_augment="m7-n4-mstd0.5-inc1", random_erasing=0.9)
    together, _ = transform(whole, "cpu")
    one = batch_of(6, frames=4)
    for name in ("clips_BTHWC", "sizes_B2", "labels_B", "index_B", "sample_B"):
        setattr(one, name, getattr(one, name)[3:4])
    alone, _ = transform(one, "cpu")
    assert torch.equal(alone[0], together[3])
    assert not torch.equal(transform(batch_of(6, frames=4, epoch=1), "cpu")[0], together)


def test_erasing_has_its_probability_area_and_ratio() -> None:
    boxes = erase_boxes(batch_of(20_000, pixels=False), 0.25, 224, 224)
    erased = boxes[boxes[:, 2] > 0]
    assert abs(len(erased) / 20_000 - 0.25) < 0.01
    share = erased[:, 2:].prod(axis=1) / 224**2
    assert stats.kstest(share, stats.uniform(0.02, 1 / 3 - 0.02).cdf).statistic < 0.04
    assert (erased[:, :2] + erased[:, 2:] <= 224).all()


def test_erased_boxes_hold_normal_noise_in_all_frames() -> None:
    batch = batch_of(40, frames=4)
    clip = torch.full((40, 3, 4, 32, 32), 9.0)
    random_erase(clip, batch, 1.0)
    boxes = erase_boxes(batch, 1.0, 32, 32)
    noise = []
    for row, (top, left, tall, wide) in enumerate(boxes.tolist()):
        part = clip[row, :, :, top : top + tall, left : left + wide]
        assert (clip[row] != 9).sum() == part.numel()
        noise.append(part.flatten())
    values = torch.cat(noise)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert (noise[0] != noise[1][: len(noise[0])][0]).all()


def test_soft_targets_add_up_and_hold_the_smoothing() -> None:
    targets = soft_targets(torch.tensor([2, 0]), 4, 0.1)
    assert torch.allclose(targets[0], torch.tensor([0.025, 0.025, 0.925, 0.025]))
    assert torch.allclose(targets.sum(1), torch.ones(2))


@pytest.mark.parametrize("alpha", [0.8, 1.0])
def test_the_share_of_a_mixed_clip_is_beta_distributed_and_equal_in_a_pair(alpha: float) -> None:
    share, _, cut = mix_plan(batch_of(8000, pixels=False), alpha, 0.0, 32, 32)
    assert not cut.any()
    assert np.array_equal(share[::2], share[1::2])
    assert stats.kstest(share[::2], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixing_halves_between_mixup_and_cutmix_and_the_targets_follow_the_pixels() -> None:
    batch = batch_of(4000, pixels=False)
    share, boxes, cut = mix_plan(batch, 0.8, 1.0, 32, 32)
    assert abs(cut.mean() - 0.5) < 0.03
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert np.allclose(share[cut], 1 - area[cut] / 32**2)
    some = batch_of(8, frames=2)
    clip = torch.arange(8.0)[:, None, None, None, None].expand(8, 3, 2, 32, 32)
    mixed, targets = mix(clip, torch.eye(8), some, 0.8, 1.0)
    partner = torch.arange(8) ^ 1
    assert torch.allclose(targets.sum(1), torch.ones(8))
    own = targets[torch.arange(8), torch.arange(8)]
    assert torch.allclose(own + targets[torch.arange(8), partner], torch.ones(8))
    mean = own * torch.arange(8) + (1 - own) * partner
    assert torch.allclose(mixed.mean(dim=(1, 2, 3, 4)), mean, atol=1e-4)


def test_mixing_off_leaves_the_clips_and_an_odd_batch_is_refused() -> None:
    batch = batch_of(3)
    clip, targets = torch.rand(3, 3, 2, 8, 8), torch.eye(3)
    assert mix(clip, targets, batch, 0.0, 0.0)[0] is clip
    with pytest.raises(InputError, match="even batch"):
        mix(clip, targets, batch, 0.8, 0.0)


@pytest.mark.parametrize(
    "transform",
    [
        PretrainTransform(32, (1, 0.75), 0.5),
        FinetuneTransform(32, 5, rand_augment="m9-n4-mstd0.5-inc1", mixup=0.8, cutmix=1.0, random_erasing=0.3),
        EvalTransform(32),
    ],
)
def test_pixels_are_the_same_within_a_trainings_autocast(transform: object) -> None:
    """Its bf16 products moved rotated pictures by half a pixel, and a GPU's crops by grey levels."""
    batch = batch_of(8, frames=4)
    expected, _ = transform(batch, "cpu")  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        clip, _ = transform(batch, "cpu")  # type: ignore[operator]
    assert torch.equal(clip, expected)
