from __future__ import annotations

import gc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
import sample_videos
import varying_rates

from pipeline.data.ingest.measure import measure
from pipeline.data.ingest.taking import expect
from pipeline.data.video import VideoError, open_video, stream, write_video
from pipeline.data.video.survey import survey
from pipeline.errors import EverestError

READERS = ("decord", "pyav")


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    written = {sample_videos.write(tmp_path / "a.mp4").read_bytes() for _ in range(40)}
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_both_readers_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    path = sample_videos.write(tmp_path / f"clip{suffix}", frames=30)
    by_decord, by_pyav = (open_video(path, reader) for reader in READERS)
    first, second = (np.stack(list(video.all_frames())) for video in (by_decord, by_pyav))
    assert first.shape == (30, 64, 64, 3)
    assert np.array_equal(first, second)
    assert np.array_equal(by_decord.frames([7, 7, 0, 29]), first[[7, 7, 0, 29]])
    assert np.array_equal(by_pyav.frames([7, 7, 0, 29]), first[[7, 7, 0, 29]])
    assert by_decord.fps == pytest.approx(by_pyav.fps) == pytest.approx(25.0)
    assert (by_decord.reader, by_pyav.reader) == ("decord", "pyav")


@pytest.mark.parametrize("reader", READERS)
def test_a_pass_starts_at_the_first_frame_wherever_the_reader_was_and_its_frames_stay(
    tmp_path: Path, reader: str
) -> None:
    with open_video(sample_videos.write(tmp_path / "clip.mp4", frames=30), reader) as video:
        one_by_one = np.stack([video.frames([number])[0] for number in range(30)])
        first, second = list(video.all_frames()), list(video.all_frames())
        video.frames([3])
        assert (video.height, video.width) == (64, 64)
    assert np.array_equal(one_by_one, first)
    assert np.array_equal(one_by_one, second)


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])  # of the second every picture is a keyframe
def test_pictures_of_a_pass_are_let_go_one_by_one(tmp_path: Path, codec: str) -> None:
    path = sample_videos.write(tmp_path / "clip.mkv", frames=60, codec=codec)
    gc.collect()
    gc.disable()
    try:
        seen = survey(str(path))
        left = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
    finally:
        gc.enable()
    assert len(seen.digests) == 60
    assert left <= 2


def test_written_frames_come_back_nearly_unchanged(tmp_path: Path) -> None:
    frames = sample_videos.moving()
    write_video(tmp_path / "clip.mp4", frames, crf=10)
    back = open_video(tmp_path / "clip.mp4").frames(range(24))
    assert np.abs(back.astype(int) - frames).mean() < 12  # 4:2:0 colour halves the chroma of a blocky texture


def test_both_readers_turn_a_rotated_video_alike(shared_dir: Path) -> None:
    for angle, shape in ((0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))):
        path = shared_dir / "clips" / "decord" / f"video_{angle}.mov"
        with open_video(path, "decord") as first, open_video(path) as second:
            assert (first.height, first.width) == (second.height, second.width) == shape
            assert second.rotation == -angle % 360
            assert np.array_equal(first.frames([0, 2]), second.frames([0, 2]))


def test_the_larger_of_two_streams_is_read(shared_dir: Path) -> None:
    with open_video(shared_dir / "clips" / "torchcodec" / "nasa_13013.mp4") as video:
        assert (video.width, video.height, video.num_frames) == (480, 270, 390)


def test_a_video_without_duration_is_counted(tmp_path: Path) -> None:
    with open_video(sample_videos.without_duration(tmp_path / "live.mkv")) as video:
        assert video.num_frames == 24
        assert len(video.frames([0, 23, 5])) == 3


def test_odd_sizes_are_written_and_read(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", sample_videos.moving(8, 51, 33))
    assert open_video(tmp_path / "odd.mp4").frames([0]).shape == (1, 51, 33, 3)


def test_names_are_never_taken_for_addresses_or_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "-i x.mp4", "http:..mp4", "%03d.mp4", "a'b\"c $(x).mp4"):
        sample_videos.write(tmp_path / name)
        for reader in READERS:
            assert open_video(name, reader).num_frames == 24


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(VideoError, match="playlist") as caught:
        open_video(path)
    assert caught.value.reason == "not_a_video"


def test_an_index_outside_the_video_is_refused(tmp_path: Path) -> None:
    path = sample_videos.write(tmp_path / "clip.mp4")
    for reader in READERS:
        with open_video(path, reader) as video, pytest.raises(VideoError, match="frame 24"):
            video.frames([24])


def test_frames_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[T,H,W,3\]"):
        write_video(tmp_path / "clip.mp4", np.zeros((4, 64, 64), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 2, 4, 7])
def test_what_nothing_refers_to_is_skipped_and_the_rest_keeps_its_bytes(tmp_path: Path, step: int) -> None:
    path = tmp_path / "b-frames.mp4"
    write_video(path, moving(60), options={"bf": "3", "b-pyramid": "normal", "g": "25"})
    measurement = measure(path)
    assert measurement.jumps.split()[1:3] == ["skip", "0:0"]
    wanted = list(range(0, 60, step))
    with open_video(path, measurement.reader, 60, measurement.jumps) as swift, open_video(path) as usual:
        assert np.array_equal(swift.frames(wanted), usual.frames(wanted))


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".flv", ".ts", ".mp4"])
def test_a_rate_is_that_of_the_pictures_where_the_header_claims_another(tmp_path: Path, suffix: str) -> None:
    path = varying_rates.write(tmp_path / f"varying{suffix}")
    assert survey(str(path)).fps == pytest.approx(varying_rates.TRUE_RATE, rel=0.005)
    slow = varying_rates.write(tmp_path / f"slow{suffix}", [200 * number for number in range(50)])
    assert survey(str(slow)).fps == pytest.approx(5, rel=0.03)
    # What predict chooses frames by before it has decoded them, what is read in one pass, and what an audit is told.
    for file in (path, slow):
        watcher = Mock(short_side=None, wants=Mock(return_value=False))
        with open_video(file) as video:
            assert video.fps == expect(str(file)).fps == survey(str(file), watcher).fps
        assert watcher.begin.call_args.args[0] == video.fps


def test_a_file_that_cannot_be_read_to_its_end_has_the_rate_of_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[object]:
        raise VideoError("undecodable", "it breaks off")
        yield

    path = varying_rates.write(tmp_path / "varying.mkv")
    with open_video(path) as video:
        monkeypatch.setattr(stream, "packets", broken)
        assert video.fps == 30


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(30), Fraction(60)])
@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_times_rounded_to_milliseconds_change_no_constant_rate(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    times = [round(1000 * number / rate) for number in range(40)]
    path = varying_rates.write(tmp_path / f"clip{suffix}", times, rate)
    assert survey(str(path)).fps == expect(str(path)).fps == pytest.approx(float(rate), rel=1e-6)


def test_a_clock_that_was_set_within_a_recording_is_no_rate(tmp_path: Path) -> None:
    times = [40 * number for number in range(30)]
    joined = varying_rates.write(tmp_path / "joined.ts", times + [3_600_000 + time for time in times], 25)
    assert survey(str(joined)).fps == pytest.approx(25)


GOPS = {"b-frames": {}, "open GOPs": {"x264-params": "mbtree=0:open-gop=1"}}


@pytest.mark.parametrize("kind", GOPS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_clip_read_from_its_keyframe_on_is_that_of_the_whole_pass(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving(60), options={"bf": "3", "b-pyramid": "normal", "g": "12"} | GOPS[kind])
    whole = np.stack(list(open_video(path).all_frames()))
    measurement = measure(path)
    assert len(measurement.jumps.split()) >= 4  # an entry behind the first at least
    for start in range(0, 48, 5):
        for wanted in (range(start, start + 12), range(start, 60, 4), [start]):
            with open_video(path, measurement.reader, 60, measurement.jumps) as swift:
                assert np.array_equal(swift.frames(list(wanted)), whole[list(wanted)])


@pytest.mark.parametrize(
    "name", ["mmaction2/demo.mp4", "tiny-ucf101/abseiling_k400.mp4", "decord/flipping_a_pancake.mkv"]
)
def test_a_clip_of_a_real_video_has_the_bytes_of_the_whole_pass(shared_dir: Path, name: str) -> None:
    path = shared_dir / "clips" / name
    measurement = measure(path)
    with open_video(path) as usual:
        for start in (0, 77, 140, measurement.frames_decoded - 61):
            wanted = list(range(start, start + 61, 4))
            with open_video(path, measurement.reader, measurement.frames_decoded, measurement.jumps) as swift:
                assert np.array_equal(swift.frames(wanted), usual.frames(wanted))


def test_entries_of_another_file_are_refused_and_not_trusted(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", moving(30), options={"g": "25"})
    with open_video(tmp_path / "short.mp4", frames=60, jumps="2 skip 0:0 24:12000") as video:
        with pytest.raises(VideoError, match="not the file that was verified"):
            video.frames([26])
        with pytest.raises(VideoError, match="frame 40"):
            video.frames([3, 40])
    with pytest.raises(EverestError, match="no list of entries"):
        open_video(tmp_path / "short.mp4", jumps="nonsense of mine")


def moving(count: int) -> np.ndarray:
    """A bright square over noise, uint8 [count, 64, 64, 3]."""
    clip = np.repeat(np.random.default_rng(0).integers(0, 90, (1, 64, 64, 3), dtype=np.uint8), count, axis=0)
    for number in range(count):
        clip[number, 20:40, number % 44 : number % 44 + 20] = 220
    return clip
