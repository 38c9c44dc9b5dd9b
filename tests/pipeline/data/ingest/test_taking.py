"""Frames taken in the pass that accepts a video: the same pictures and the same refusals, in less time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_videos

from pipeline.data.ingest import taking
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.ingest.process import Decoder, Limits
from pipeline.data.ingest.reading import Accepted, open_accepted
from pipeline.data.video import VideoError, open_video, second_pass

LIMITS = Limits(60.0, 2 << 30)
NUMBERS = [0, 3, 17, 38]


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedFrames]:
    with IsolatedFrames(LIMITS, 1) as reader:
        yield reader


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened to be read once more, after they were accepted."""
    names: list[str] = []
    ask = Decoder.ask

    def noted(self: Decoder, due: float, function: Any, *arguments: Any) -> Any:
        if function is open_accepted:
            names.append(Path(arguments[0]).name)
        return ask(self, due, function, *arguments)

    monkeypatch.setattr(Decoder, "ask", noted)
    return names


def some(video: Accepted) -> Sequence[int]:
    return [number for number in NUMBERS if number < video.frames]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_come_from_one_reading_and_are_those_of_a_pass(
    reader: IsolatedFrames, opened: list[str], tmp_path: Path, name: str
) -> None:
    file = sample_videos.write(tmp_path / name, frames=40)
    video, pictures = reader.frames(file, some)
    with open_video(file) as plain:
        np.testing.assert_array_equal(pictures, plain.frames(NUMBERS))
        assert (video.frames, video.fps) == (40, pytest.approx(plain.fps))
    assert not opened
    small = reader.frames(sample_videos.write(tmp_path / f"b{name}", frames=40), some, short_side=32)[1]
    assert small.shape == (4, 32, 32, 3)


def test_a_file_that_holds_other_than_it_promises_is_read_again(
    reader: IsolatedFrames, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Decoder.ask

    def promises_more(self: Decoder, due: float, function: Any, *arguments: Any) -> Any:
        result = ask(self, due, function, *arguments)
        return result._replace(frames=result.frames + 5) if function is taking.expect else result

    monkeypatch.setattr(Decoder, "ask", promises_more)
    file = sample_videos.write(tmp_path / "a.mp4", frames=40)
    video, pictures = reader.frames(file, lambda video: [0, video.frames - 1])
    with open_video(file) as plain:
        np.testing.assert_array_equal(pictures, plain.frames([0, 39]))
    assert (video.frames, opened) == (40, ["a.mp4"])


def test_large_pictures_and_long_files_go_the_usual_way(
    reader: IsolatedFrames, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sample_videos.write(tmp_path / "a.mp4", frames=40)
    with monkeypatch.context() as smaller:
        smaller.setattr(taking, "LARGEST", 3 * 64 * 64 - 1)
        assert reader.frames(file, some)[1].shape == (4, 64, 64, 3)
        assert opened == ["a.mp4"]
    assert not taking.Expected(100, 25.0, 6 << 20).fits(40)
    assert not taking.Expected(100, 25.0, 0).fits(1)
    assert taking.expect(str(file))[:2] == (40, 25.0)
    monkeypatch.setattr(taking, "COUNTED", 100)
    assert not taking.expect(str(file)).frames


def test_two_passes_beside_each_other_that_differ_refuse_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(sample_videos.write(tmp_path / "a.mp4", frames=40))
    seen = taking.Keeper([], (tmp_path / "frames").open("wb"))
    whole = second_pass.survey_twice(name, seen, 60.0)
    assert len(whole.digests) == 40
    monkeypatch.setattr(second_pass, "_digests", lambda _: iter([*whole.digests[:30], b"other"]))
    with pytest.raises(VideoError, match="different pictures from frame 30 on"):
        second_pass.survey_twice(name, seen, 60.0)


def test_what_is_refused_is_refused_in_the_same_words(reader: IsolatedFrames, tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>404</html>" * 20)
    (tmp_path / "empty.mp4").touch()
    for file, reason in {
        sample_videos.truncated(tmp_path / "cut.mp4", 0.5, fast_start=True): "declared_more_than_decoded",
        sample_videos.truncated(tmp_path / "lost.mp4", 0.5, fast_start=False): "truncated",
        sample_videos.sound_only(tmp_path / "sound.mp4"): "no_video_stream",
        tmp_path / "page.mp4": "not_a_video",
        tmp_path / "empty.mp4": "empty",
        tmp_path / "absent.mp4": "missing",
    }.items():
        with pytest.raises(VideoError) as refused:
            reader.frames(file, some)
        assert refused.value.reason == reason, file.name
