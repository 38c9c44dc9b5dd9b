from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frame_paths import Matrix
from video_matrix import TURNS, Kind, kinds, matrix, reference

from pipeline.data.ingest.measure import measure
from pipeline.data.ingest.verdicts import verdict
from pipeline.data.video import open_video
from pipeline.params import IngestParams

#: One or two of every kind; all of them are in `make faults`.
QUICK = (
    "h264 mp4 closed",
    "h264 mkv open",
    "h264 ts closed",
    "h264 avi closed",
    "hevc mp4 open",
    "mpeg1video mpg",
    "mpeg2video ts",
    "mpeg4 avi",
    "vp9 webm hidden frames",
    "h264 mp4 intra refresh",
    "h264 mp4 10 bits",
    "mpeg4 avi empty chunks",
    "h264 mp4 edit list within a GOP",
    "h264 mp4 cut by copy",
    "mpeg2 ts begins within a GOP",
    "h264 mp4 transposed",
    "turned by 45",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    every = kinds()
    limits = IngestParams(
        deadline_seconds=60.0, memory_gib=2.0, failure_budget=0.02, min_frames=16, max_repeated_run=64, workers=1
    )
    return Matrix(tmp_path_factory.mktemp("matrix"), {name: every[name] for name in QUICK}, limits)


def test_sound_files_of_every_kind_are_accepted_and_no_picture_is_like_another(files: Matrix) -> None:
    assert files.refused == {}
    for name, pictures in files.pictures.items():
        assert len({picture.tobytes() for picture in pictures}) == len(pictures) >= 30, name


def test_frame_n_is_the_nth_picture_of_a_sequential_pass_whatever_is_asked_for(files: Matrix) -> None:
    assert set(files.wrong_by_reader().values()) == {0}
    assert "h264 mp4 closed" not in files.in_sequence
    assert "h264 mp4 intra refresh" in files.in_sequence  # its keyframes do not stand for themselves


def test_clips_straight_from_videos_hold_the_frames_of_a_sequential_pass(files: Matrix) -> None:
    assert set(files.wrong_by_loader().values()) == {0}


@pytest.mark.parametrize("keep_every", [1, 4])
def test_a_cache_holds_the_frames_of_a_sequential_pass(files: Matrix, keep_every: int) -> None:
    assert set(files.wrong_by_cache(keep_every).values()) == {0}


def test_predict_and_show_read_the_frames_of_a_sequential_pass(files: Matrix) -> None:
    assert set(files.wrong_by_predict().values()) == {0}
    assert set(files.wrong_by_show().values()) == {0}


@pytest.mark.parametrize("source", ["videos", "cache"])
def test_test_views_are_cut_from_the_frames_of_a_sequential_pass(files: Matrix, source: str) -> None:
    assert set(files.wrong_by_evaluate(source).values()) == {0}


def test_every_display_matrix_is_shown_as_ffmpeg_shows_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain.mp4"
    kinds()["h264 mp4 no b-frames"].write(plain)
    for name, (values, shown) in TURNS.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(matrix(*values)(plain.read_bytes()))
        with open_video(path) as video, open_video(plain) as upright:
            assert np.array_equal(video.frames([7])[0], shown(upright.frames([7])[0])), name
            assert (video.height, video.width) == video.frames([0]).shape[1:3]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("mpeg12-skip/mpeg1.mpg", 100),
        ("ogv-no-duration/theora.ogv", 100),
        ("mirrored-matrix/hflip.mp4", 50),
        ("mirrored-matrix/vflip.mp4", 50),
        ("mirrored-matrix/transpose.mp4", 50),
    ],
)
def test_files_that_were_read_wrongly_come_out_right(
    shared_dir: Path, tmp_path: Path, limits: IngestParams, name: str, frames: int
) -> None:
    path = shared_dir / "cases" / name
    measurement = measure(path)
    assert (verdict(measurement, limits), measurement.frames_decoded, measurement.fps) == ("", frames, 25.0)
    turned = {
        "hflip": TURNS["mirrored"][1],
        "vflip": TURNS["upside down"][1],
        "transpose": TURNS["transposed"][1],
    }.get(path.stem, lambda picture: picture)
    truth = reference(path, turned)
    for wanted in (range(0, frames, 4), [12, 16, 20, 24], [frames - 1]):
        with open_video(path, measurement.reader, measurement.frames_decoded, measurement.jumps) as video:
            assert all(np.array_equal(a, truth[n]) for a, n in zip(video.frames(list(wanted)), wanted, strict=True))


def test_a_file_that_is_cut_in_half_is_still_told_apart_from_one_cut_by_copy(
    tmp_path: Path, limits: IngestParams
) -> None:
    every = kinds()

    def reason(kind: Kind, share: float) -> str:
        path = tmp_path / f"cut{kind.suffix}"
        kind.write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return verdict(measure(path), limits)

    assert reason(every["mpeg4 avi empty chunks"], 0.7) == "declared_more_than_decoded"
    assert reason(every["h264 mp4 index first"], 0.7) == "declared_more_than_decoded"
    assert reason(every["h264 mp4 closed"], 0.7) == "truncated"
