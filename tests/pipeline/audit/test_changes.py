"""What a pass over one video tells of its tokens, and which pictures are like one another."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_videos
from PIL import Image

from pipeline.audit.changes import Changes, cut, first_as_second, frame_step, kept, needed
from pipeline.audit.record import BINS, KEEPS, SHARES, TokenChange
from pipeline.audit.signature import signature
from pipeline.audit.similar import NEAREST, similar_groups
from pipeline.data.cache.maps import MapBuilder
from pipeline.data.ingest.measure import measure
from pipeline.data.video import open_video, write_video


def watched(path: Path, reader: str = "pyav") -> TokenChange:
    changes = Changes()
    assert measure(path, reader, watcher=changes).reason == ""
    record = changes.record()
    assert record is not None
    return record


def square_on_still(frames: int, side: int = 224, seed: int = 0) -> np.ndarray:
    """uint8 [T, side, side, 3]: a patch of 32 pixels that flickers, aligned with 2 x 2 places; all else is still."""
    rng = np.random.default_rng(seed)
    still = rng.integers(60, 190, (7, 7, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)[:side, :side]
    clip = np.stack([still] * frames)
    for t in range(frames):
        clip[t, 64:96, 64:96] = 255 if t // 2 % 2 else 0
    return clip


def test_the_share_of_tokens_that_hold_a_share_of_the_change_is_counted() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    assert needed(scores, [0.4, 0.5, 0.7, 0.9, 1.0]).tolist() == [0.2, 0.4, 0.4, 0.6, 0.8]
    assert kept(scores, [0.2, 0.4, 1.0]).tolist() == pytest.approx([0.4, 0.7, 1.0])
    assert needed(np.zeros(4), [0.5]).tolist() == [0.0]
    assert kept(np.zeros(4), [0.5]).tolist() == [1.0]


def test_shares_are_those_by_which_the_model_gives_each_clip_its_own_budget() -> None:
    import torch

    from models.unequal.adaptive import adaptive_counts

    scores = np.random.default_rng(0).random(1568).astype(np.float32)
    for share in SHARES:
        tokens = int(adaptive_counts(torch.from_numpy(scores)[None], share))
        assert needed(scores, [share])[0] == pytest.approx(tokens / 1568)


@pytest.mark.parametrize(
    ("rate", "expected", "step"),
    [(30.0, 300, 4), (25.0, 0, 3), (0.0, 0, 4), (60.0, 1000, 8), (30.0, 20, 1), (6.0, 57, 1)],
)
def test_a_clip_spans_two_seconds_or_a_shorter_video(rate: float, expected: int, step: int) -> None:
    assert frame_step(rate, expected) == step


def test_clips_follow_one_another_and_their_first_slot_takes_the_seconds_scores() -> None:
    slots = np.arange(20.0)[:, None]
    assert [clip[0, 0] for clip in cut(slots, 8)] == [0.0, 8.0]
    assert [len(clip) for clip in cut(slots[:3], 8)] == [3]
    assert first_as_second(slots[:3]).ravel().tolist() == [1.0, 1.0, 2.0]


def test_a_small_flicker_on_a_still_picture_is_where_all_change_is(tmp_path: Path) -> None:
    write_video(tmp_path / "flicker.mkv", square_on_still(32), codec="ffv1")
    record = watched(tmp_path / "flicker.mkv")
    assert (record.frame_step, record.clips) == (3, 1)
    assert record.still > 0.97
    assert record.median == 0
    # 4 of 196 places change; those hold all of it.
    assert record.tokens_needed[-1] <= 4 / 196 + 1e-6
    assert record.change_kept[0] == pytest.approx(1)
    assert sum(record.histogram) == record.clips * 5 * 196  # 11 sampled frames: 5 slots


def test_numbers_are_those_of_the_caches_distance_maps(tmp_path: Path) -> None:
    path = sample_videos.write(tmp_path / "moving.mp4", frames=80)
    record = watched(path)
    builder = MapBuilder(224)
    with open_video(path) as video:
        for frame in video.frames(range(0, 80, record.frame_step)):
            builder.add(frame)
    slots = builder.maps()[::2][:13].astype(np.float32)
    clip = first_as_second(slots[:8])
    greys = clip.ravel() * 255 / np.sqrt(1536)
    assert record.clips == 1
    assert record.mean == pytest.approx(float(greys.mean()), rel=0.01)
    assert record.histogram == pytest.approx(np.histogram(greys, bins=[*BINS, np.inf])[0].tolist(), abs=20)
    assert record.change_kept == pytest.approx(kept(clip.ravel(), KEEPS).tolist(), abs=0.01)


def test_both_readers_see_the_same_change(tmp_path: Path) -> None:
    path = sample_videos.write(tmp_path / "moving.mp4", frames=64)
    by_pyav, by_decord = watched(path), watched(path, "decord")
    assert by_pyav.mean == pytest.approx(by_decord.mean, rel=0.05)
    assert by_pyav.signatures == by_decord.signatures


def test_a_video_of_two_frames_has_no_change_to_be_told(tmp_path: Path) -> None:
    write_video(tmp_path / "two.mp4", sample_videos.moving(2))
    changes = Changes()
    measure(tmp_path / "two.mp4", watcher=changes)
    assert changes.record() is None


def scene(seed: int) -> np.ndarray:
    """A picture [H, W, 3] of smooth blobs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((320, 240), Image.Resampling.BICUBIC))


def test_a_signature_survives_size_brightness_and_compression() -> None:
    import io

    picture = scene(1)
    first = signature(picture)
    assert first is not None
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((161, 121)).save(buffer, "JPEG", quality=40)
    again = signature(np.asarray(Image.open(buffer)))
    darker = signature((picture * 0.7).astype(np.uint8))
    assert again is not None
    assert darker is not None
    assert (first ^ again).bit_count() <= NEAREST
    assert (first ^ darker).bit_count() <= NEAREST
    others = [signature(scene(seed)) for seed in range(2, 40)]
    assert min((first ^ other).bit_count() for other in others if other is not None) > 12


def test_a_picture_without_contrast_has_no_signature_and_a_tiny_one_has() -> None:
    assert signature(np.full((64, 64, 3), 80, np.uint8)) is None
    assert signature(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)) is not None


def test_similar_videos_are_grouped_by_way_of_others_too() -> None:
    rng = np.random.default_rng(0)

    def film(count: int) -> list[int]:
        return [int(one) for one in rng.integers(0, 1 << 63, count)]

    def copy(film: list[int], flips: int) -> list[int]:
        return [one ^ sum(1 << int(bit) for bit in rng.choice(64, flips, replace=False)) for one in film]

    a, b = film(12), film(8)
    videos: list[Any] = [a, film(12), copy(a, 4), b, [], copy(a[3:6], 3), copy(b, 5), film(1)]
    assert similar_groups(videos) == [[0, 2, 5], [3, 6]]
    assert similar_groups([]) == []
    assert similar_groups([[], []]) == []


def test_many_equal_videos_are_one_group_in_no_time() -> None:
    import time

    rng = np.random.default_rng(0)
    one = [int(x) for x in rng.integers(0, 1 << 63, 8)]
    others = [[int(x) for x in rng.integers(0, 1 << 63, 8)] for _ in range(2000)]
    began = time.process_time()
    groups = similar_groups([one] * 1000 + others)
    assert groups == [list(range(1000))]
    assert time.process_time() - began < 10


def test_eight_thousand_videos_of_a_few_scenes_take_little_memory_and_seconds() -> None:
    scenes = np.random.default_rng(0).integers(0, 2**64, (40, 4), dtype=np.uint64).tolist()
    signatures = [scenes[number % 40] for number in range(8_000)]
    began = time.process_time()
    tracemalloc.start()
    groups = similar_groups(signatures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert groups == [list(range(scene, 8_000, 40)) for scene in range(40)]
    assert peak < 24 * 2**20, "all 2 million pairs at once would take ten times that"
    assert time.process_time() - began < 20
