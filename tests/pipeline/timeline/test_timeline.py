"""Timelines of real files, compared with predictions of the same frames."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import sample_videos
from PIL import Image
from typer.testing import CliRunner

from pipeline import api
from pipeline.cli import app
from pipeline.data.video import write_video
from pipeline.errors import InputError

#: [bytes] the most that a process may hold while it looks at an hour of video.
ROOM = 1.5 * 2**30


def probabilities(table: Path) -> np.ndarray:
    read = pq.read_table(table)
    return np.stack([read[name].to_numpy() for name in ("falls", "rises", "turns")], axis=1)


def test_each_window_has_the_probabilities_that_predict_gives_for_its_frames(model: Path, tmp_path: Path) -> None:
    frames = sample_videos.moving(93, 48, 64, seed=3)
    # Lossless, so that a cut decodes to the same pictures.
    write_video(tmp_path / "long.mp4", frames, crf=0)
    timelines = api.timeline([tmp_path / "long.mp4"], str(model), out=tmp_path / "out", threshold=0)
    one = timelines.timelines[0]
    rows = pq.read_table(one.table).to_pylist()
    # 8 frames 3 apart; half a window is 4 samples; the last ends with the video.
    assert [(r["first_frame"], r["last_frame"]) for r in rows] == [
        *[(12 * k, 12 * k + 21) for k in range(6)],
        (69, 90),
    ]
    assert [r["start"] for r in rows] == pytest.approx([r["first_frame"] / 25 for r in rows])
    assert [r["end"] for r in rows] == pytest.approx([(r["last_frame"] + 1) / 25 for r in rows])
    cuts = []
    for row in rows:
        cuts.append(tmp_path / f"{row['first_frame']}.mp4")
        write_video(cuts[-1], frames[row["first_frame"] : row["last_frame"] + 1], crf=0)
    expected = api.predict(cuts, str(model)).probabilities
    assert probabilities(Path(one.table)) == pytest.approx(expected, abs=1e-6)
    assert [r["predicted"] for r in rows] == [found_class(row) for row in expected]
    about = json.loads(pq.read_schema(one.table).metadata[b"everest"])
    assert (about["step"], about["frames"], about["stopped"]) == (3, 8, "")
    assert len(about["sha256"]) == 64


def found_class(row: np.ndarray) -> str:
    return ("falls", "rises", "turns")[int(row.argmax())]


def test_several_crops_are_averaged_as_predict_averages_them(model: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "wide.mp4", sample_videos.moving(22, 32, 96, seed=5))
    one = api.timeline([tmp_path / "wide.mp4"], str(model), out=tmp_path / "out", crops=3).timelines[0]
    expected = api.predict([tmp_path / "wide.mp4"], str(model), crops=3, segments=1).probabilities
    assert probabilities(Path(one.table)) == pytest.approx(expected, abs=1e-6)


def test_a_video_shorter_than_a_window_gets_one_with_predicts_frames(model: Path, tmp_path: Path) -> None:
    video = sample_videos.write(tmp_path / "short.mp4", frames=18)
    one = api.timeline([video], str(model), out=tmp_path / "out", threshold=0).timelines[0]
    assert (one.windows, one.length) == (1, pytest.approx(0.72))
    expected = api.predict([video], str(model), segments=1).probabilities
    assert probabilities(Path(one.table)) == pytest.approx(expected, abs=1e-6)


def test_a_file_that_breaks_off_keeps_what_came_before_and_a_bad_one_costs_no_other(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    sample_videos.truncated(folder / "cut.mp4", 0.7, fast_start=True)
    (folder / "page.mp4").write_text("<html>404 Not Found</html>" * 20)
    sample_videos.write(folder / "good.mp4", frames=40)
    timelines = api.timeline([folder], str(model), out=tmp_path / "out", threshold=0)
    by_name = {Path(one.video).name: one for one in timelines.timelines}
    assert set(by_name) == {"cut.mp4", "good.mp4"}
    assert by_name["good.mp4"].stopped == ""
    assert by_name["cut.mp4"].windows >= 2
    assert [Path(one.video).name for one in timelines.failed] == ["page.mp4"]
    assert len(timelines.failed[0].reason) > 10
    rows = list(csv.DictReader((tmp_path / "out/segments.csv").open()))
    assert {Path(row["video"]).name for row in rows} == {"cut.mp4", "good.mp4"}
    for name, one in by_name.items():
        assert float([row for row in rows if row["video"].endswith(name)][-1]["end"]) == pytest.approx(
            one.length, abs=1e-3
        )


def test_times_are_those_of_the_file_where_its_rate_varies(model: Path, tmp_path: Path) -> None:
    video = tmp_path / "vfr.mkv"
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(sample_videos.moving(40)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = 40 * number if number < 20 else 800 + 200 * (number - 20)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    one = api.timeline([video], str(model), out=tmp_path / "out").timelines[0]
    rows = pq.read_table(one.table).to_pylist()
    for row in rows:
        first = row["first_frame"]
        assert row["start"] == pytest.approx(first * 0.04 if first < 20 else 0.8 + 0.2 * (first - 20), abs=2e-3)


def test_the_command_prints_segments_and_draws_them(model: Path, tmp_path: Path) -> None:
    video = tmp_path / "two.mp4"
    write_video(video, np.concatenate([sample_videos.moving(60, seed=0), sample_videos.moving(60, seed=7)]))
    line = ["predict", str(video), "--model", str(model), "--timeline", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*line, "--threshold", "0", "--stride", "0.24"])
    assert result.exit_code == 0, result.output
    assert "two.mp4: " in result.output
    assert "score" in result.output
    with Image.open(tmp_path / "out/two.png") as picture:
        assert picture.size[0] > 1000
        assert len(set(picture.convert("RGB").resize((200, 80)).get_flattened_data())) > 10
    asked = CliRunner().invoke(app, [*line, "--json"])
    segments = json.loads(asked.output)["timelines"][0]["segments"]
    assert all(set(one) == {"start", "end", "class", "score"} for one in segments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 0}, "stride = 0: expected seconds above 0"),
        ({"stride": float("nan")}, "stride = nan"),
        ({"threshold": 1.5}, "threshold = 1.5: expected a probability"),
        ({"shortest": -1}, "shortest = -1"),
        ({"batch": 0}, "batch = 0: expected at least 1"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    video = sample_videos.write(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=words):
        api.timeline([video], str(model), out=tmp_path / "out", **options)


@pytest.mark.slow
def test_an_hour_of_video_takes_less_than_a_gib_and_a_half(model: Path, tmp_path: Path) -> None:
    hour(tmp_path / "hour.mp4")
    program = """
import re, sys, threading
from pathlib import Path
import psutil
from pipeline import api

def highest(process):  # KiB; a child's ru_maxrss would hold what its parent had when it was started
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{process}/status").read_text())[1])

decoders, ended = {}, threading.Event()
def watch():
    while not ended.wait(0.05):
        for child in psutil.Process().children(recursive=True):
            try:
                if "pipeline.data.ingest.worker" in child.cmdline():
                    decoders[child.pid] = highest(child.pid)
            except (psutil.Error, OSError, TypeError):
                pass

watcher = threading.Thread(target=watch)
watcher.start()
video, model, out = sys.argv[1:]
one = api.timeline([video], model, out=out).timelines[0]
ended.set()
watcher.join()
print(one.windows, one.length, 1024 * highest("self"), 1024 * sum(decoders.values()), len(decoders))
"""
    numbers = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "hour.mp4"), str(model), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    ).stdout.split()
    windows, length, own, decoder, processes = int(numbers[0]), float(numbers[1]), *map(int, numbers[2:])
    assert length == pytest.approx(3600, abs=0.1)
    assert windows == pytest.approx(3600 / 0.48, abs=3)
    assert processes == 1
    assert 2**25 < decoder < 2**28, f"a decoder of {decoder / 2**20:.0f} MiB"
    assert own + decoder < ROOM, f"{own / 2**30:.2f} GiB, its decoder {decoder / 2**30:.2f} GiB"


def hour(path: Path) -> None:
    """An hour of video without an hour's encoding: the packets of 10 s, again and again."""
    write_video(path.with_name("part.mp4"), sample_videos.moving(250, 96, 128), options={"bf": "0"})
    with av.open(str(path.with_name("part.mp4"))) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for repetition in range(360):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.pts is None or packet.dts is None:
                    continue
                shift = round(10 * repetition / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                target.mux(packet)
