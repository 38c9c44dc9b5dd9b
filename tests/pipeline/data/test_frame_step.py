"""Clips by time: files of 15, 25 and 60 frames a second show the same moments, to half a frame, wherever cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rated_videos
from hypothesis import given
from hypothesis import strategies as st
from rated_videos import RATES, SECONDS, shown_at

from pipeline import layout
from pipeline.data import frame_step
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import ClipDataset, ClipRule, labelled_clips, open_source, pretraining_clips
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.clips.record import record_of
from pipeline.data.frame_step import Step, tick_frames, ticks
from pipeline.data.sampling import candidate_clip, centre_clip, uniform_clip, view_clips
from pipeline.errors import InputError
from pipeline.evaluation.benchmark import TestSet, reader
from pipeline.inference.clips import ClipRule as EmbedRule
from pipeline.inference.clips import read_clips
from pipeline.inference.isolated import IsolatedViews
from pipeline.params import Params

#: 8 frames a clip: 0.25 s apart.
CLIP_SECONDS, INTERVAL = 2.0, 0.25
#: [s] Half a frame at each rate, and what grey levels and compression add.
HALF = {rate: 0.5 / rate + 0.03 for rate in RATES}


@given(
    rate=st.floats(6, 120), seconds=st.floats(2.5, 60), place=st.floats(0, 0.999), frames=st.sampled_from([4, 8, 16])
)
def test_every_frame_is_the_nearest_to_its_time_at_any_rate(
    rate: float, seconds: float, place: float, frames: int
) -> None:
    count = int(rate * seconds)
    step = Step(seconds=2.0 / frames).of(count, rate)
    assert isinstance(step, float)
    rest = count / rate - 2.0
    begins = {"clip": place * rest, "centre": rest / 2, **{f"view {k}": k / 2 * rest for k in range(3)}}
    clips = {"clip": uniform_clip(count, frames, step, place), "centre": centre_clip(count, frames, step)}
    clips |= {f"view {k}": clip for k, clip in enumerate(view_clips(count, frames, step, 3))}
    for name, clip in clips.items():
        wanted = begins[name] + np.arange(frames) * 2.0 / frames
        assert np.abs(clip / rate - wanted).max() <= 0.5 / rate + 1e-6
        assert 0 <= clip.min() <= clip.max() < count


def test_candidates_are_as_far_apart_in_time_or_squeezed_into_the_window_of_a_clip() -> None:
    for rate, half in ((15, 1 / 30), (60, 1 / 120)):
        step = Step(seconds=0.125).of(6 * rate, rate)
        grown = candidate_clip(6 * rate, 16, step, 0.0, oversample=1.5, window="grow") / rate
        assert np.abs(grown - 0.125 * np.arange(24)).max() <= half + 1e-9
        fixed = candidate_clip(6 * rate, 16, step, 0.0, oversample=1.5, window="fixed") / rate
        assert (len(fixed), fixed[0]) == (24, 0)
        assert np.abs(fixed[-1] - 1.875) <= half + 1e-9
        assert np.abs(fixed[1::2] - fixed[::2] - 0.125).max() <= 2 * half


def test_a_video_shorter_than_a_clip_is_spread_over_it_and_slow_ones_repeat_frames() -> None:
    assert frame_step.clip_at(9, 8, 3.75, 0.5).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert frame_step.clip_at(20, 8, 0.75, 0.0).tolist() == [0, 1, 2, 2, 3, 4, 5, 5]
    numbers = tick_frames(20, 0.75)
    assert [ticks(number, 0.75) for number in range(15)] == np.bincount(numbers)[:15].tolist()
    assert [ticks(number, 4) for number in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_step_is_written_and_read_as_a_number_as_seconds_or_as_a_share_of_the_video() -> None:
    for step in (Step(4), Step(seconds=0.125), Step(seconds=2 / 15), Step(share=1 / 16), Step(share=0.9 / 16)):
        assert Step.parse(step.entry) == Step.parse(str(step)) == step
    entries = [step.entry for step in (Step(4), Step(seconds=0.125), Step(share=1 / 16))]
    assert entries == [4, "0.125 s", "0.0625 of a video"]
    with pytest.raises(ValueError, match="frames per second = 0"):
        Step(seconds=0.125).of(9, 0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rated")


@pytest.fixture(scope="module")
def params(place: Path) -> Iterator[Params]:
    """The files in a cache, in their folder's manifest."""
    (place / "videos").mkdir()
    rated_videos.write_set(place / "videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
        yield rated_videos.ready(place / "videos", {"clip_seconds": CLIP_SECONDS})


def alike(times_RT: np.ndarray, names: list[str]) -> None:
    """All rows show the same moments, each to within half a frame of its own rate."""
    for row, name in zip(times_RT, names, strict=True):
        rate = int(name[-2:])
        assert np.abs(row - times_RT[-1]).max() <= HALF[rate] + HALF[60], (name, row, times_RT[-1])


@pytest.mark.parametrize("source", ["cache", "videos"])
def test_training_clips_and_validation_clips_show_the_same_moments(params: Params, source: str) -> None:
    own = params.model_copy(update={"clip": params.clip.model_copy(update={"source": source})})
    held_out = labelled_clips(own, "small", "test", random=False)
    (batch,) = ClipLoader(held_out, seed=0, global_batch=3, shuffle=False, drop_last=False).epoch(0)
    times = shown_at(batch.clips_BTHWC.numpy())
    names = [held_out.video_id(row) for row in range(3)]
    alike(times, names)
    # The middle of 4 s: from 1 s on, a quarter of a second apart.
    assert np.abs(times - (1 + INTERVAL * np.arange(8))).max() <= HALF[15]
    random = labelled_clips(own, "small", "train", random=True)
    rows = np.arange(3)
    for draw in range(20):
        numbers = random.frame_indices(rows, 0, 0, np.full(3, draw))  # the same draw for all: the same place
        alike(numbers / np.array([15, 25, 60])[:, None], [random.video_id(row) for row in rows])


@pytest.mark.parametrize("mode", ["none", "cached", "online"])
@pytest.mark.parametrize("window", ["grow", "fixed"])
def test_pre_training_clips_and_their_candidates_do_so_too(params: Params, mode: str, window: str) -> None:
    rule = ClipRule(8, mode, oversample=1.0, window=window)  # type: ignore[arg-type]
    clips = ClipDataset(pretraining_clips(params).members, rule)
    for draw in range(12):
        numbers = clips.frame_indices(np.arange(3), 0, 0, np.full(3, draw))
        alike(numbers / np.array([15, 25, 60])[:, None], [clips.video_id(row) for row in range(3)])


def test_maps_are_of_the_frames_that_cached_selection_takes(params: Params) -> None:
    cache = Cache.open(layout.cache_dir("small"))
    assert (cache.map_step, cache.rates) == ("0.25 s", pytest.approx([15, 25, 60] * 2))
    assert [len(cache.maps(row)) for row in range(len(cache))] == [int(SECONDS / INTERVAL)] * 6  # type: ignore[arg-type]
    rule = ClipRule(4, "cached", oversample=2.0, keep_ratio=0.3)
    chosen = ClipDataset(pretraining_clips(params).members, rule).frame_indices(np.arange(3), 0, 0, np.arange(3))
    for row, rate in zip(chosen, RATES, strict=True):
        assert set(row.tolist()) <= set(tick_frames(SECONDS * rate, INTERVAL * rate).tolist())


def test_a_model_record_says_the_seconds_and_every_reader_of_it_cuts_alike(params: Params, place: Path) -> None:
    clips = labelled_clips(params, "small", "train", random=False)
    arguments = {"img_size": 32, "num_frames": 8, "num_classes": 2, "strategy": "none"}
    info = record_of("finetune", "everest_tiny_patch16_224", arguments, params, "small", clips, ("a", "b"))  # type: ignore[arg-type]
    assert (info.frame_step, info.notes["frame_seconds"]) == (None, INTERVAL)
    step = frame_step.trained_step(info)
    assert step == Step(seconds=INTERVAL)
    tests = TestSet.load("small", "test")
    many = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"segments": 3, "crops": 1})})
    read = reader(many, "small", tests)
    views = np.stack([read(number) for number in range(3)])  # [R, X, T, s, s, 3]
    for view in range(3):
        alike(shown_at(views[:, view]), tests.ids)
        assert np.abs(shown_at(views[:, view]) - (view + INTERVAL * np.arange(8))).max() <= HALF[15]
    files = [place / "videos" / path.removeprefix("videos/") for path in tests.paths]
    how = {"frames": 8, "segments": 3, "crops": 1, "grid": 1}
    with IsolatedViews.by_params() as isolated:
        for number, file in enumerate(files):
            again = isolated.read(file, how, step, params.preprocess.short_side)
            assert np.array_equal(again, views[number])  # as predict and the server read them
            embedded = read_clips(isolated, file, EmbedRule(8, step, 3, 1, params.preprocess.short_side))
            assert np.array_equal(embedded.pixels_GTHWC, views[number])


def test_a_cache_without_rates_and_one_of_every_second_frame_are_refused(params: Params) -> None:
    source = open_source(params, "small")
    members = pretraining_clips(params).members
    source.rates = None
    with pytest.raises(InputError, match="does not hold.*everest preprocess"):
        ClipDataset([type(members[0])(source, np.arange(2), Step(seconds=INTERVAL))], ClipRule(8)).frame_indices(
            np.arange(2), 0, 0, np.arange(2)
        )
    with pytest.raises(InputError, match="preprocess.frames = 'informative' with .* by time"):
        rated_videos.params(Path("videos"), {"clip_seconds": CLIP_SECONDS}, preprocess__frames="informative")


@given(count=st.integers(8, 400), share=st.floats(0.3, 1), place=st.floats(0, 0.999), frames=st.sampled_from([4, 8]))
def test_a_clip_over_a_share_of_its_video_shows_the_same_part_of_every_length(
    count: int, share: float, place: float, frames: int
) -> None:
    step = Step(share=share / frames).of(count, 0.0)
    wanted = place * (1 - share) * count + np.arange(frames) * share * count / frames
    clips = {place: uniform_clip(count, frames, step, place), 0.5: centre_clip(count, frames, step)}
    assert np.abs(clips[place] - wanted).max() <= 0.5 + 1e-6
    views = view_clips(count, frames, step, 3)
    assert np.array_equal(views[1], clips[0.5])
    assert abs(count - (views[2][-1] + step)) <= 0.5 + 1e-6  # the last view reaches to the end
    if share == 1:
        assert (views == views[0]).all()  # there is one place only


def test_a_video_of_fewer_frames_than_a_clip_shows_each_of_them_equally_long() -> None:
    clip = uniform_clip(4, 8, Step(share=1 / 8).of(4, 0.0), 0.3)
    assert np.abs(np.bincount(clip, minlength=4) - 2).max() <= 1
    assert (clip[0], clip[-1]) == (0, 3)


def test_frame_selection_takes_its_slots_from_the_whole_of_each_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "videos").mkdir()
    lasts = (4, 3, 2)
    rated_videos.write_set(tmp_path / "videos", seconds=lasts)
    params = rated_videos.ready(
        tmp_path / "videos", {"clip_share": 1.0}, ingest__min_frames=2, pretrain__frame_selection__window="fixed"
    )
    cache = Cache.open(layout.cache_dir("small"))
    assert (cache.map_step, cache.rates) == ("0.125 of a video", None)
    assert [len(cache.maps(row)) for row in range(len(cache))] == [8] * 6  # type: ignore[arg-type]
    counts = np.array([round(rate * seconds) for rate, seconds in zip(RATES, lasts, strict=True)])[:, None]
    for mode in ("none", "online"):
        rule = ClipRule(8, mode, oversample=1.0, window="fixed")  # type: ignore[arg-type]
        chosen = ClipDataset(pretraining_clips(params).members, rule).frame_indices(np.arange(3), 0, 0, np.arange(3))
        # All show the same share of themselves, from the beginning to the end.
        assert np.abs(chosen / counts - np.arange(8) / 8).max() <= 0.5 / counts.min() + 1e-9
    narrow = ClipRule(4, "cached", oversample=1.5, window="fixed", keep_ratio=0.3)
    for draw in range(4):
        numbers = ClipDataset(pretraining_clips(params).members, narrow).frame_indices(
            np.arange(3), 0, draw, np.arange(3)
        )
        assert (numbers[:, 1::2] > numbers[:, ::2]).all()
    with pytest.raises(InputError, match=r"window = 'grow' with .*clip_share = 1: .*Cure: window: fixed"):
        rated_videos.params(
            Path("videos"), {"clip_share": 1.0}, pretrain__corpus=["small"],
            pretrain__frame_selection={"mode": "cached", "oversample": 1.5, "window": "grow"},
        )  # fmt: skip
