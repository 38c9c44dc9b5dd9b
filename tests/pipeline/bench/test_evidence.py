"""Rank correlations of pixel distance maps with an embedding's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy import stats

import models  # noqa: F401 - registers the names with timm
from models.weights import save_model
from pipeline.bench import evidence
from pipeline.bench.evidence import agreement, command, decoding_saved, embed_slots, spearman
from pipeline.data.video import write_video
from pipeline.errors import InputError


def test_the_correlation_is_spearmans_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 200), rng.normal(size=200)
    assert spearman(a, a + b) == pytest.approx(stats.spearmanr(a, a + b).statistic)
    assert np.isnan(spearman(a, np.ones(200)))


def test_choosing_before_decoding_saves_a_third() -> None:
    assert decoding_saved(16, 1.5) == pytest.approx(1 / 3)


def test_a_long_video_is_compared_window_by_window_as_it_would_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (38, 64, 64, 3), dtype=np.uint8)
    model = timm.create_model("everest_pretrain_tiny_patch16_224", img_size=64, num_frames=16)
    held = []

    def outcome() -> dict[str, float]:
        read = iter(clip)

        def embed(window: torch.Tensor) -> torch.Tensor:
            held.append(window.shape[2])
            return embed_slots(model, window)

        return agreement(read, embed, 64)

    by_windows = outcome()
    assert held == [16, 16, 6]
    monkeypatch.setattr(evidence, "WINDOW", 38)
    assert by_windows == pytest.approx(outcome(), abs=1e-3)


def test_a_random_embedding_ranks_moving_places_as_pixels_do_and_still_videos_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clip = np.repeat(rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), 16, axis=0)
    for time in range(16):
        clip[time, 8:40, 2 * time : 2 * time + 24] = rng.integers(0, 256, (32, 24, 3))
    model = timm.create_model("everest_pretrain_tiny_patch16_224", img_size=64, num_frames=16)
    outcome = agreement(clip, lambda x: embed_slots(model, x), 64)
    assert outcome["tokens"] > 0.9
    save_model(model, tmp_path / "model")
    videos = [tmp_path / "one" / "a.mp4", tmp_path / "two" / "a.mp4"]
    for video in videos:
        write_video(video, clip)
    write_video(tmp_path / "still.mp4", np.full_like(clip, 128))
    result = command([tmp_path], tmp_path / "model", step=1, resolution=64)
    assert result["tokens"] > 0.9
    assert set(result["videos"]) == {str(video) for video in videos}
    assert result["videos_still"] == 1
    with pytest.raises(InputError, match=r"no video is long enough to compare and changes \(1 stand still\)"):
        command([tmp_path / "still.mp4"], tmp_path / "model", step=1, resolution=64)
