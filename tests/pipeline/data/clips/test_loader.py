"""Batches: the same clips whatever the workers and ranks, resumed or not; bad clips counted or refused."""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_benchmark import make, params

from pipeline import layout
from pipeline.data.batch import Batch
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member, labelled_clips, pretraining_clips
from pipeline.data.clips.loader import PREFETCH, ClipLoader
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import ClipError
from pipeline.data.frame_step import Step
from pipeline.data.pixels.transforms import FinetuneTransform, PretrainTransform
from pipeline.errors import EverestError, InputError
from pipeline.stages import corpus, preprocess


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished cache of 24 videos of two shapes."""
    folder = tmp_path_factory.mktemp("loader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("EVEREST_DATA", raising=False)
        make(24, sizes=((64, 64), (64, 96)))
        preprocess.run(params(preprocess__store="jpeg"), "small")
        corpus.run(params(), "small")
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    return home


def digests(batch: Batch, transform: PretrainTransform | None = None) -> dict[int, str]:
    """sample -> hash of what the model sees, the frame numbers and the row."""
    clips = (transform or PretrainTransform(32, (1, 0.75), 0.5))(batch, "cpu")[0]
    return {
        int(sample): hashlib.sha256(
            clip.contiguous().numpy().tobytes() + frames.numpy().tobytes() + bytes([int(row)])
        ).hexdigest()
        for sample, clip, frames, row in zip(batch.sample_B, clips, batch.frames_BT, batch.index_B, strict=True)
    }


def epoch_of(
    dataset: ClipDataset, world: int = 1, workers: int = 0, accumulate: int = 1, epoch: int = 1
) -> list[dict[int, str]]:
    """For each optimizer step the digests of all ranks together."""
    steps: list[dict[int, str]] = []
    for rank in range(world):
        loader = ClipLoader(
            dataset, seed=4, global_batch=8, rank=rank, world=world, accumulate=accumulate, workers=workers
        )
        for micro, batch in enumerate(loader.epoch(epoch)):
            step = micro // accumulate
            if len(steps) == step:
                steps.append({})
            result = digests(batch)
            assert not set(result) & set(steps[step])
            steps[step] |= result
        loader.close()
    return steps


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("world", "workers", "accumulate"), [(1, 2, 1), (2, 0, 1), (2, 2, 2), (4, 1, 1)])
def test_workers_ranks_and_accumulation_change_no_bit(world: int, workers: int, accumulate: int) -> None:
    dataset = pretraining_clips(params())
    expected = epoch_of(dataset)
    assert len(expected) == 2
    assert epoch_of(dataset, world, workers, accumulate) == expected
    assert epoch_of(dataset, epoch=2) != expected


@pytest.mark.usefixtures("here")
def test_resuming_anywhere_with_other_workers_and_ranks_gives_the_rest() -> None:
    dataset = pretraining_clips(params())
    expected = epoch_of(dataset)
    resumed: dict[int, str] = {}
    for rank in range(2):
        loader = ClipLoader(dataset, seed=4, global_batch=8, rank=rank, world=2, workers=2)
        for batch in loader.epoch(1, start_micro_step=1):
            resumed |= digests(batch)
        loader.close()
    assert resumed == expected[1]


@pytest.mark.usefixtures("here")
def test_every_video_comes_once_an_epoch_and_the_last_step_is_shared_out_without_padding() -> None:
    dataset = labelled_clips(params(), "small", "train", random=False)
    seen: list[int] = []
    for rank in range(2):
        loader = ClipLoader(dataset, seed=0, global_batch=8, rank=rank, world=2, shuffle=False, drop_last=False)
        assert loader.steps_per_epoch == 3
        seen += [int(row) for batch in loader.epoch(0) for row in batch.index_B]
    assert sorted(seen) == list(range(18))
    for world, accumulate, batch in ((2, 2, 8), (4, 1, 8), (4, 2, 8), (3, 1, 12), (2, 4, 16)):
        how = {"seed": 0, "global_batch": batch, "world": world, "accumulate": accumulate, "drop_last": False}
        shared = [ClipLoader(dataset, rank=rank, **how) for rank in range(world)]  # type: ignore[arg-type]
        assert [sum(1 for _ in loader.epoch(0)) for loader in shared] == [
            shared[0].micro_batches(rank) for rank in range(world)
        ]
    assert ClipLoader(dataset, seed=0, global_batch=8).steps_per_epoch == 2


@pytest.mark.usefixtures("here")
def test_validation_clips_are_the_middle_and_never_change() -> None:
    dataset = labelled_clips(params(), "small", "test", random=False)
    loaders = [ClipLoader(dataset, seed=seed, global_batch=6, shuffle=False) for seed in (1, 2)]
    one, two = (next(loader.epoch(loader.seed)) for loader in loaders)
    assert torch.equal(one.clips_BTHWC, two.clips_BTHWC)
    assert one.frames_BT[0].tolist() == list(range(6, 14))
    assert one.labels_B.tolist() == [dataset.label(row) for row in range(6)]


@pytest.mark.usefixtures("here")
def test_frames_and_labels_are_those_of_the_video() -> None:
    dataset = labelled_clips(params(), "small", "train", random=True)
    batch = next(ClipLoader(dataset, seed=0, global_batch=8).epoch(0))
    cache = Cache.open(layout.cache_dir("small"))
    row_of = {video: row for row, video in enumerate(cache.ids)}
    for place in range(8):
        row = row_of[dataset.video_id(int(batch.index_B[place]))]
        height, width = batch.sizes_B2[place].tolist()
        clip = batch.clips_BTHWC[place, :, :height, :width].numpy()
        assert np.array_equal(clip, cache.frames(row, batch.frames_BT[place]))
        assert batch.labels_B[place] == cache.label(row)
        assert not batch.clips_BTHWC[place, :, :, width:].any()


@pytest.mark.usefixtures("here")
def test_cached_selection_takes_the_moving_part_and_reads_no_other_frame() -> None:
    settings = params(pretrain__keep_ratio=0.3, clip__frames=8)
    dataset = pretraining_clips(settings)
    rows = np.zeros(400, np.int64)
    frames = dataset.frame_indices(rows, 0, 0, np.arange(400))
    assert frames.shape == (400, 8)
    assert (np.diff(frames[:, ::2], axis=1) > 0).all()
    assert (frames[:, 1::2] - frames[:, ::2] == 1).all()
    # A plain clip of 12 frames is the very window that the 6 candidate slots fill.
    window = ClipDataset(dataset.members, ClipRule(12)).frame_indices(rows, 0, 0, np.arange(400))
    assert all(set(chosen) <= set(whole) for chosen, whole in zip(frames, window, strict=True))
    # The square rests in the first half of the video and moves in the second.
    assert (frames >= 9).mean() > (window >= 9).mean() + 0.03


@pytest.mark.usefixtures("here")
def test_online_selection_hands_over_all_candidates() -> None:
    dataset = pretraining_clips(
        params(pretrain__frame_selection={"mode": "online", "oversample": 1.5, "window": "grow"})
    )
    batch = next(ClipLoader(dataset, seed=0, global_batch=8).epoch(0))
    assert batch.clips_BTHWC.shape[1] == 12


@pytest.mark.usefixtures("here")
def test_repeated_augmentation_gives_each_video_several_clips_beside_the_batch() -> None:
    dataset = labelled_clips(params(), "small", "train", random=True)
    batch = next(ClipLoader(dataset, seed=0, global_batch=8, repeated=2).epoch(0))
    assert len(batch.index_B) == 16
    assert torch.equal(batch.index_B[:8], batch.index_B[8:])
    assert len(set(batch.sample_B.tolist())) == 16
    assert not torch.equal(batch.frames_BT[:8], batch.frames_BT[8:])
    clips, targets = FinetuneTransform(32, 8, mixup=0.8, cutmix=1.0)(batch, "cpu")
    assert clips.shape == (16, 3, 8, 32, 32)
    assert targets.shape == (16, 8)


@pytest.mark.usefixtures("here")
def test_reading_the_videos_themselves_is_one_switch_and_gives_the_same_frames() -> None:
    settings = params()
    straight = params(clip__source="videos", pretrain__frame_selection__mode="none")
    from_videos = labelled_clips(straight, "small", "train", random=True)
    from_cache = labelled_clips(settings, "small", "train", random=True)
    one, two = (next(ClipLoader(d, seed=0, global_batch=8, workers=2).epoch(0)) for d in (from_videos, from_cache))
    assert torch.equal(one.frames_BT, two.frames_BT)
    assert torch.equal(one.sizes_B2, two.sizes_B2)
    difference = (one.clips_BTHWC.int() - two.clips_BTHWC.int()).abs().float().mean()
    assert difference < 4  # the cache of this test holds JPEG


class Broken:
    """A cache of which some videos do not read."""

    def __init__(self, cache: Cache, bad: set[int]) -> None:
        self.cache, self.bad = cache, bad

    def __getattr__(self, name: str) -> object:
        return getattr(self.cache, name)

    def __len__(self) -> int:
        return len(self.cache)

    def fill(self, row: int, frame_indices: np.ndarray, target: np.ndarray) -> None:
        if row in self.bad:
            raise ClipError(self.cache.ids[row], "flipped bits")
        self.cache.fill(row, frame_indices, target)


def broken(bad: set[int], random: bool = True) -> ClipDataset:
    cache = Broken(Cache.open(layout.cache_dir("small")), bad)
    return ClipDataset([Member(cache, np.arange(24), Step(1))], ClipRule(8, random=random))  # type: ignore[arg-type]


@pytest.mark.usefixtures("here")
def test_a_bad_training_clip_is_replaced_the_same_way_everywhere_and_counted() -> None:
    bad = {3, 4, 10}
    rows = []
    for workers in (0, 2):
        loader = ClipLoader(broken(bad), seed=1, global_batch=24, workers=workers, replace=True)
        batch = next(loader.epoch(0))
        loader.close()
        assert batch.replaced == 3
        assert {video for video, _ in batch.errors} == {"v003", "v004", "v010"}
        assert batch.errors[0][1] == "flipped bits"
        assert not set(batch.index_B.tolist()) & bad
        rows.append(digests(batch))
    assert rows[0] == rows[1]
    whole = next(ClipLoader(broken(set()), seed=1, global_batch=24).epoch(0))
    untouched = {s for s in digests(whole) if s not in bad}
    assert all(digests(whole)[s] == rows[0][s] for s in untouched)


@pytest.mark.usefixtures("here")
def test_an_evaluation_never_replaces() -> None:
    loader = ClipLoader(broken({5}, random=False), seed=0, global_batch=24, shuffle=False)
    with pytest.raises(ClipError, match="video v005: flipped bits"):
        next(loader.epoch(0))


@pytest.mark.usefixtures("here")
def test_a_corpus_that_does_not_read_at_all_stops_the_training() -> None:
    loader = ClipLoader(broken(set(range(24))), seed=0, global_batch=8, replace=True)
    with pytest.raises(EverestError, match=r"5 other videos .* do not read either. Cure: `everest cache verify`\.$"):
        next(loader.epoch(0))


@pytest.mark.usefixtures("here")
def test_a_training_names_each_video_that_it_replaces_once_and_ends_where_there_are_too_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader = ClipLoader(broken({3}), seed=1, global_batch=24)
    for epoch in range(3):
        assert next(loader.epoch(epoch)).replaced == 1
    assert caplog.messages == ["clips: video v003: flipped bits; another video takes its place."]
    with pytest.raises(
        EverestError, match=r"2 of 24 videos .* 1 may be replaced .* v010: flipped bits\. Cure: `everest c"
    ):
        next(ClipLoader(broken({3, 10}), seed=1, global_batch=24).epoch(0))


@pytest.mark.usefixtures("here")
def test_a_training_that_reads_the_videos_themselves_says_what_to_do_where_they_are_gone() -> None:
    straight = params(clip__source="videos", pretrain__frame_selection__mode="none")
    dataset = labelled_clips(straight, "small", "train", random=True)
    source = dataset.members[0].source
    assert isinstance(source, VideoSource)
    source.files = [replace(file, path=file.path.with_name("gone.mp4")) for file in source.files]
    with pytest.raises(EverestError, match=r"2 of 18 videos .*missing.* Cure: put the files back .*everest download"):
        list(ClipLoader(dataset, seed=0, global_batch=18).epoch(0))


@pytest.mark.usefixtures("here")
def test_a_kept_batch_is_never_written_again_and_a_dropped_one_gives_its_memory_back() -> None:
    loader = ClipLoader(broken(set()), seed=0, global_batch=8)
    kept = list(loader.epoch(0))
    copies = [batch.clips_BTHWC.clone() for batch in kept]
    for _ in range(3):
        for _batch in loader.epoch(1):
            pass
    assert all(torch.equal(batch.clips_BTHWC, copy) for batch, copy in zip(kept, copies, strict=True))
    del kept, _batch
    gc.collect()
    places = set()
    for batch in loader.epoch(2):
        places.add(batch.clips_BTHWC.data_ptr())
        del batch
    assert len(places) <= 2


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_with_a_bad_clip_gives_its_memory_back_without_a_search_for_garbage(workers: int) -> None:
    loader = ClipLoader(broken({3, 10}), seed=1, global_batch=8, workers=workers, replace=True)
    places, replaced = set(), 0
    gc.disable()
    try:
        for epoch in range(8):
            for batch in loader.epoch(epoch):
                places.add(batch.clips_BTHWC.data_ptr())
                replaced += batch.replaced
                del batch
    finally:
        gc.enable()
        loader.close()
    assert replaced == 16
    assert len(places) <= PREFETCH + 2


@pytest.mark.usefixtures("here")
def test_a_batch_that_does_not_divide_or_is_not_filled_is_refused() -> None:
    dataset = broken(set())
    with pytest.raises(InputError, match="8 does not divide into 3 ranks"):
        ClipLoader(dataset, seed=0, global_batch=8, world=3)
    with pytest.raises(InputError, match=r"12 over 2 ranks x 2 accumulation steps is 3 at a time.*multiple of 8"):
        ClipLoader(dataset, seed=0, global_batch=12, world=2, accumulate=2, repeated=2, pairs=True)
    with pytest.raises(InputError, match="24 videos do not fill"):
        ClipLoader(dataset, seed=0, global_batch=32)


@pytest.mark.usefixtures("here")
def test_maps_of_another_frame_step_are_refused() -> None:
    cache = Cache.open(layout.cache_dir("small"))
    with pytest.raises(InputError, match="frame step 1, the clips have 2"):
        ClipDataset([Member(cache, np.arange(4), Step(2))], ClipRule(8, "cached"))


@pytest.mark.usefixtures("here")
def test_numbers_for_masks_belong_to_samples_not_to_batches() -> None:
    dataset = broken(set())
    one = next(ClipLoader(dataset, seed=0, global_batch=8).epoch(3))
    halves = [next(ClipLoader(dataset, seed=0, global_batch=8, rank=r, world=2).epoch(3)) for r in range(2)]
    both = torch.cat([half.uniforms("mask", 5) for half in halves])
    assert torch.equal(one.uniforms("mask", 5), both)
    assert json.dumps(one.sample_B.tolist()) == json.dumps(torch.cat([h.sample_B for h in halves]).tolist())
