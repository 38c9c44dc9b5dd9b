from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import sample_videos

from pipeline.data.video import VideoError, open_swift, open_video, write_video


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    written = {sample_videos.write(tmp_path / "a.mp4").read_bytes() for _ in range(40)}
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_both_readers_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    path = sample_videos.write(tmp_path / f"clip{suffix}", frames=30)
    by_decord, by_pyav = (open_video(path, reader) for reader in ("decord", "pyav"))
    first, second = (np.stack(list(video.all_frames())) for video in (by_decord, by_pyav))
    assert first.shape == (30, 64, 64, 3)
    assert np.array_equal(first, second)
    assert np.array_equal(by_decord.frames([7, 7, 0, 29]), first[[7, 7, 0, 29]])
    assert np.array_equal(by_pyav.frames([7, 7, 0, 29]), first[[7, 7, 0, 29]])
    assert by_decord.fps == pytest.approx(by_pyav.fps) == pytest.approx(25.0)
    assert (by_decord.reader, by_pyav.reader) == ("decord", "pyav")


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_pass_starts_at_the_first_frame_wherever_the_reader_was_and_its_frames_stay(
    tmp_path: Path, reader: Literal["decord", "pyav"]
) -> None:
    with open_video(sample_videos.write(tmp_path / "clip.mp4", frames=30), reader) as video:
        one_by_one = np.stack([video.frames([number])[0] for number in range(30)])
        first, second = list(video.all_frames()), list(video.all_frames())
        video.frames([3])
        assert (video.height, video.width) == (64, 64)
    assert np.array_equal(one_by_one, first)
    assert np.array_equal(one_by_one, second)


def test_an_avi_with_b_frames_is_left_to_pyav_which_finds_its_last_frame(tmp_path: Path) -> None:
    path = sample_videos.write(tmp_path / "clip.avi", frames=30)
    with open_video(path) as video:
        assert video.reader == "pyav"
        whole = np.stack(list(video.all_frames()))
        assert np.array_equal(video.frames([7, 0, 29]), whole[[7, 0, 29]])
    old = sample_videos.raw_codec(tmp_path / "old.avi", "mpeg4", 64, 40)
    with open_video(old) as video:
        assert video.reader == "decord"


def test_written_frames_come_back_nearly_unchanged(tmp_path: Path) -> None:
    frames = sample_videos.moving()
    write_video(tmp_path / "clip.mp4", frames, crf=10)
    back = open_video(tmp_path / "clip.mp4").frames(range(24))
    assert np.abs(back.astype(int) - frames).mean() < 12  # 4:2:0 colour halves the chroma of a blocky texture


def test_both_readers_turn_a_rotated_video_alike(shared_dir: Path) -> None:
    for angle, shape in ((0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))):
        path = shared_dir / "clips" / "decord" / f"video_{angle}.mov"
        with open_video(path, "decord") as first, open_video(path, "pyav") as second:
            assert (first.height, first.width) == (second.height, second.width) == shape
            assert first.rotation == second.rotation
            assert np.array_equal(first.frames([0, 2]), second.frames([0, 2]))


def test_both_readers_choose_the_same_of_two_streams(shared_dir: Path) -> None:
    path = shared_dir / "clips" / "torchcodec" / "nasa_13013.mp4"
    with open_video(path, "decord") as first, open_video(path, "pyav") as second:
        assert (first.width, first.height) == (second.width, second.height) == (480, 270)
        assert np.array_equal(first.frames([100]), second.frames([100]))


def test_what_decord_cannot_open_is_read_by_pyav(shared_dir: Path, tmp_path: Path) -> None:
    with open_video(shared_dir / "clips" / "torchcodec" / "av1_video.mkv") as video:
        assert video.reader == "pyav"
        assert video.num_frames == 125
        assert sum(1 for _ in video.all_frames()) == 125


def test_a_video_without_duration_is_counted(tmp_path: Path) -> None:
    with open_video(sample_videos.without_duration(tmp_path / "live.mkv")) as video:
        assert video.reader == "pyav"
        assert video.num_frames == 24
        assert len(video.frames([0, 23, 5])) == 3


def test_odd_sizes_are_written_and_read(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", sample_videos.moving(8, 51, 33))
    assert open_video(tmp_path / "odd.mp4").frames([0]).shape == (1, 51, 33, 3)


def test_names_are_never_taken_for_addresses_or_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "-i x.mp4", "http:..mp4", "%03d.mp4", "a'b\"c $(x).mp4"):
        sample_videos.write(tmp_path / name)
        for reader in ("decord", "pyav"):
            assert open_video(name, reader).num_frames == 24


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(VideoError, match="playlist") as caught:
        open_video(path)
    assert caught.value.reason == "not_a_video"


def test_an_index_outside_the_video_is_refused(tmp_path: Path) -> None:
    path = sample_videos.write(tmp_path / "clip.mp4")
    for reader in ("decord", "pyav"):
        with open_video(path, reader) as video, pytest.raises(VideoError, match="the video has 24"):
            video.frames([24])


def test_frames_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[T,H,W,3\]"):
        write_video(tmp_path / "clip.mp4", np.zeros((4, 64, 64), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 2, 4, 7])
def test_the_swift_pass_gives_decords_bytes_though_it_skips_what_nothing_refers_to(tmp_path: Path, step: int) -> None:
    path = tmp_path / "b-frames.mp4"
    write_video(path, moving(60), options={"bf": "3", "b-pyramid": "normal", "g": "25"})
    wanted = list(range(0, 60, step))
    with open_swift(path, 60) as swift, open_video(path, "decord") as usual:
        found = list(swift.pick(wanted))
        assert np.array_equal(np.stack(found), usual.frames(wanted))


def test_the_swift_pass_is_refused_where_decoders_may_differ_or_frames_are_missing(tmp_path: Path) -> None:
    odd, mpeg4, good = tmp_path / "odd.mp4", tmp_path / "old.avi", tmp_path / "good.mp4"
    write_video(odd, moving(8)[:, :63, :63])
    write_video(mpeg4, moving(8), codec="mpeg4")
    write_video(good, moving(8))
    for path, frames in ((odd, 8), (mpeg4, 8), (good, 9)):
        with pytest.raises(VideoError):
            open_swift(path, frames)


GOPS = {"b-frames": {}, "open GOPs": {"x264-params": "mbtree=0:open-gop=1"}}


@pytest.mark.parametrize("kind", GOPS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_clip_read_from_its_keyframe_on_is_that_of_decords_whole_pass(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving(60), options={"bf": "3", "b-pyramid": "normal", "g": "12"} | GOPS[kind])
    whole = np.stack(list(open_video(path, "decord").all_frames()))
    for start in range(0, 48, 5):
        for wanted in (range(start, start + 12), range(start, 60, 4), [start]):
            with open_swift(path, 60) as swift:
                assert np.array_equal(np.stack(list(swift.pick(list(wanted)))), whole[list(wanted)])


@pytest.mark.parametrize(
    "name", ["mmaction2/demo.mp4", "tiny-ucf101/abseiling_k400.mp4", "decord/flipping_a_pancake.mkv"]
)
def test_a_clip_of_a_real_video_has_decords_bytes(shared_dir: Path, name: str) -> None:
    path = shared_dir / "clips" / name
    with open_video(path, "decord") as usual:
        for start in (0, 77, 140, usual.num_frames - 61):
            wanted = list(range(start, start + 61, 4))
            with open_swift(path, usual.num_frames) as swift:
                assert np.array_equal(np.stack(list(swift.pick(wanted))), usual.frames(wanted))


def test_interlaced_video_and_streams_without_an_index_are_left_to_decord(tmp_path: Path) -> None:
    write_video(tmp_path / "interlaced.mp4", moving(8), options={"x264-params": "mbtree=0:tff=1"})
    write_video(tmp_path / "stream.ts", moving(8))
    for name in ("interlaced.mp4", "stream.ts"):
        with pytest.raises(VideoError, match="not a kind of video"):
            open_swift(tmp_path / name, 8)


def moving(count: int) -> np.ndarray:
    """A bright square over noise, uint8 [count, 64, 64, 3]."""
    clip = np.repeat(np.random.default_rng(0).integers(0, 90, (1, 64, 64, 3), dtype=np.uint8), count, axis=0)
    for number in range(count):
        clip[number, 20:40, number % 44 : number % 44 + 20] = 220
    return clip
