"""Distance maps against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from models.selection import slot_distances
from pipeline.data.cache.maps import MapBuilder, edges, squared_distances, window_maps


def build(frames: np.ndarray, step: int, resolution: int, source: str = "pixels") -> np.ndarray:
    builder = MapBuilder(resolution, source)
    for number in range(0, len(frames), step):
        builder.add(frames[number])
    return builder.maps()


def tubelets(frames: np.ndarray, starts: list[int], step: int) -> torch.Tensor:
    """[1, slots, places, 1536] of frames whose sides are multiples of 16, values in [0, 1]."""
    grid = frames.shape[1] // 16
    slots = np.stack([np.stack([frames[p], frames[p + step]]) for p in starts]).astype(np.float32) / 255
    cut = slots.reshape(len(starts), 2, grid, 16, grid, 16, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    return torch.from_numpy(cut.reshape(1, len(starts), grid * grid, 1536).copy())


@pytest.fixture
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_map_is_the_distance_between_consecutive_tubelets(clip: np.ndarray, step: int) -> None:
    maps = build(clip, step, 32)
    starts = list(range(step, 40 - step, 2 * step))
    expected = slot_distances(tubelets(clip, starts, step))[0]
    stored = maps[np.asarray(starts) // step]
    assert np.allclose(stored[1:], expected[1:], rtol=2e-3)


def test_maps_have_a_row_for_every_slot_start_and_repeat_the_nearest_at_the_ends(clip: np.ndarray) -> None:
    maps = build(clip, 4, 32)
    assert maps.shape == (10, 4)
    assert maps.dtype == np.float16
    assert np.array_equal(maps[0], maps[2])
    assert np.array_equal(maps[1], maps[2])


def test_a_static_video_has_zero_maps_and_a_very_short_one_too() -> None:
    still = np.full((12, 32, 32, 3), 77, np.uint8)
    assert not build(still, 1, 32).any()
    assert build(still[:2], 1, 32).shape == (2, 4)
    assert not build(still[:1], 4, 32).any()


def test_a_change_shows_at_its_place_and_time_only() -> None:
    clip = np.zeros((20, 64, 48, 3), np.uint8)
    clip[10:, :16, :12] = 255  # the first of 4 x 4 places of a 64 x 48 frame
    maps = build(clip, 1, 64).reshape(20, 4, 4)
    assert set(zip(*np.nonzero(maps), strict=True)) == {(9, 0, 0), (10, 0, 0), (11, 0, 0)}
    assert maps[10, 0, 0] == pytest.approx(np.sqrt(1536), rel=1e-3)
    assert maps[9, 0, 0] == pytest.approx(np.sqrt(768), rel=1e-3)


def test_frames_that_do_not_divide_give_nearly_what_even_ones_give() -> None:
    rng = np.random.default_rng(1)
    smooth = [
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((70, 70), Image.Resampling.BICUBIC)
        for _ in range(2)
    ]
    odd = [np.asarray(image.resize((67, 61), Image.Resampling.BILINEAR)) for image in smooth]
    even = [np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)) for image in smooth]
    assert edges(61, 4).tolist() == [0, 15, 30, 45, 61]
    a, b = squared_distances(odd[0], odd[1], 4), squared_distances(even[0], even[1], 4)
    assert np.allclose(a, b, rtol=0.15)


def test_the_random_embedding_keeps_the_distances(clip: np.ndarray) -> None:
    pixels, embedded = build(clip, 2, 32), build(clip, 2, 32, "embedding")
    assert embedded.shape == pixels.shape
    assert abs((embedded / pixels).astype(float).mean() - 1) < 0.05
    assert (embedded / pixels).astype(float).std() < 0.15


def test_a_window_finds_its_slots_maps() -> None:
    maps = np.arange(10, dtype=np.float16)[:, None].repeat(3, 1)
    assert window_maps(maps, [8, 16, 24], 4)[:, 0].tolist() == [2, 4, 6]
    assert window_maps(maps, [9, 39, 60], 4)[:, 0].tolist() == [2, 9, 9]
