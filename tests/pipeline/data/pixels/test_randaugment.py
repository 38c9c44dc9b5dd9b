"""RandAugment's operations against Pillow's, and its choice of operations against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from pipeline.data.batch import Batch
from pipeline.data.pixels.randaugment import NAMES, OPERATIONS, RandAugment, level
from pipeline.errors import InputError


def picture(seed: int = 0, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth colours with some texture, using most of the range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth.astype(int) + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def apply(name: str, image: np.ndarray, strength: float) -> np.ndarray:
    changed = OPERATIONS[name](torch.from_numpy(image)[None], strength)
    assert changed.dtype == torch.uint8
    return changed[0].numpy()


def affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)
    )


PILLOW = {
    "auto_contrast": (0.0, lambda image, _: ImageOps.autocontrast(image)),
    "equalize": (0.0, lambda image, _: ImageOps.equalize(image)),
    "invert": (0.0, lambda image, _: ImageOps.invert(image)),
    "rotate": (21.0, lambda image, s: image.rotate(s, Image.Resampling.BILINEAR, fillcolor=(124, 116, 104))),
    "posterize": (2.0, lambda image, s: ImageOps.posterize(image, int(s))),
    "solarize": (77.0, lambda image, s: ImageOps.solarize(image, int(s))),
    "solarize_add": (
        60.0,
        lambda image, s: image.point([min(255, v + int(s)) if v < 128 else v for v in range(256)] * 3),
    ),
    "colour": (1.63, lambda image, s: ImageEnhance.Color(image).enhance(s)),
    "contrast": (0.4, lambda image, s: ImageEnhance.Contrast(image).enhance(s)),
    "brightness": (1.5, lambda image, s: ImageEnhance.Brightness(image).enhance(s)),
    "sharpness": (1.63, lambda image, s: ImageEnhance.Sharpness(image).enhance(s)),
    "shear_x": (0.21, lambda image, s: affine(image, (1, s, 0, 0, 1, 0))),
    "shear_y": (-0.21, lambda image, s: affine(image, (1, 0, 0, s, 1, 0))),
    "translate_x": (0.3, lambda image, s: affine(image, (1, 0, s * image.width, 0, 1, 0))),
    "translate_y": (-0.3, lambda image, s: affine(image, (1, 0, 0, 0, 1, s * image.height))),
}


def test_every_operation_is_compared() -> None:
    assert set(PILLOW) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_gives_what_pillow_gives_for_one_frame(name: str) -> None:
    strength, reference = PILLOW[name]
    image = picture()
    expected = np.asarray(reference(Image.fromarray(image), strength)).astype(int)
    result = apply(name, image, strength).astype(int)
    difference = np.abs(result - expected)
    # Pillow does not blend the picture's border with the fill colour, we do.
    geometric = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    assert (difference > 1).mean() < (0.06 if geometric else 0.002), difference.max()


@pytest.mark.parametrize("name", ["rotate", "equalize", "contrast", "sharpness"])
def test_all_frames_of_a_clip_are_changed_alike(name: str) -> None:
    frame = torch.from_numpy(picture())
    changed = OPERATIONS[name](frame[None].repeat(5, 1, 1, 1), 0.7)
    assert torch.equal(changed[0], changed[4])


@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "contrast"])
def test_statistics_are_of_the_whole_clip_so_that_it_does_not_flicker(name: str) -> None:
    still = torch.from_numpy(picture(0))
    alone = OPERATIONS[name](torch.stack([still, still]), 0.4)
    beside = OPERATIONS[name](torch.stack([still, torch.from_numpy(picture(1)) // 3]), 0.4)
    assert not torch.equal(alone[0], beside[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0.0, 10.0])
@pytest.mark.parametrize("increasing", [False, True])
def test_every_operation_takes_the_ends_of_its_range(name: str, magnitude: float, increasing: bool) -> None:
    changed = apply(name, picture(), level(name, magnitude, -1.0, increasing))
    assert changed.shape == picture().shape


def fake_batch(count: int, epoch: int = 0) -> Batch:
    ones = torch.ones(count, dtype=torch.long)
    return Batch(torch.zeros(0), ones, ones, ones, torch.arange(count), ones, seed=5, epoch=epoch)


def test_the_plan_follows_the_settings() -> None:
    operation, magnitude, sign = RandAugment("m7-n4-mstd0.5-inc1").plan(fake_batch(4000))
    assert operation.shape == (4000, 4)
    assert abs((operation >= 0).mean() - 0.5) < 0.01
    share = np.bincount(operation[operation >= 0], minlength=15) / (operation >= 0).sum()
    assert len(share) == 15
    assert np.abs(share - 1 / 15).max() < 0.01
    assert abs(magnitude.mean() - 7) < 0.02
    assert abs(magnitude.std() - 0.5) < 0.02
    assert abs(sign.mean()) < 0.03


def test_strength_grows_with_magnitude_when_asked() -> None:
    assert level("posterize", 9.0, 1.0, True) < level("posterize", 3.0, 1.0, True)
    assert level("posterize", 9.0, 1.0, False) > level("posterize", 3.0, 1.0, False)
    assert level("solarize", 10.0, 1.0, True) == 0
    assert level("rotate", 10.0, -1.0, True) == -30
    assert [level("brightness", m, -1.0, True) for m in (3.0, 9.0)] == pytest.approx([0.73, 0.19])


def test_a_clip_is_changed_the_same_in_any_batch() -> None:
    clips = torch.stack([torch.from_numpy(picture(seed))[None].repeat(2, 1, 1, 1) for seed in range(6)])
    batch = fake_batch(6)
    together = RandAugment("m9-n3-mstd0.5-inc1")(clips, batch)
    assert not torch.equal(together, clips)
    alone = fake_batch(6)
    alone.sample_B = batch.sample_B[4:5]
    assert torch.equal(RandAugment("m9-n3-mstd0.5-inc1")(clips[4:5], alone), together[4:5])


@pytest.mark.parametrize("config", ["m7-x3", "m11-n2", "augmix", "m7-n0"])
def test_unknown_settings_are_refused_with_an_example(config: str) -> None:
    with pytest.raises(InputError, match="m7-n4-mstd0"):
        RandAugment(config)
