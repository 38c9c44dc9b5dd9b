"""The animation of a clip beside its kept tokens, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import small_benchmark
from PIL import Image

from pipeline.pictures.animated import GAP, SIDE, draw_animated


def test_dropped_tokens_are_dim_on_the_right_and_only_in_their_slot(tmp_path: Path) -> None:
    view = np.full((4, 64, 64, 3), 200, dtype=np.uint8)
    view[:, :, :, 0] = np.arange(4)[:, None, None] * 60  # equal frames would become one
    kept = np.ones((2, 4, 4), dtype=bool)
    kept[1, 0, 0] = False
    draw_animated(view, kept, tmp_path / "clip.webp")
    with Image.open(tmp_path / "clip.webp") as file:
        assert file.info["loop"] == 0
        frames = []
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            frames.append(np.asarray(file.convert("RGB")).astype(int))
    assert len(frames) == 4
    corner = [frame[4:24, SIDE + GAP + 4 : SIDE + GAP + 24, 1].mean() for frame in frames]
    assert np.allclose(corner[:2], 200, atol=8)
    assert np.allclose(corner[2:], 32, atol=12)
    for frame, red in zip(frames, (0, 60, 120, 180), strict=True):
        assert np.allclose(frame[4:24, 4:24, 0].mean(), red, atol=12)
        assert np.allclose(frame[100:120, SIDE + GAP + 100 : SIDE + GAP + 120, 1].mean(), 200, atol=8)


def test_a_clip_takes_a_few_kib(tmp_path: Path) -> None:
    draw_animated(small_benchmark.moving_frames(1, 16, 224, 224), np.ones((8, 14, 14), dtype=bool), tmp_path / "a.webp")
    assert (tmp_path / "a.webp").stat().st_size < 60_000
