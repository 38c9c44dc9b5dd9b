"""`everest audit` on folders as users have them: its numbers, its page, its notes, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_videos
from typer.testing import CliRunner

from pipeline.audit.audit import Audit, audit
from pipeline.audit.costs import disk, pretrain_gmacs, trainings
from pipeline.audit.measuring import audited
from pipeline.audit.summary import findings
from pipeline.cli import app
from pipeline.data.ingest import ingest
from pipeline.data.ingest.memory import NOTES
from pipeline.data.video import open_video, write_video
from pipeline.errors import InputError
from pipeline.planning.plan import Planner
from tests.pipeline.audit.test_changes import square_on_still

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two moving clips, a smaller copy of one and a byte copy of the other, a still one, three bad files and a text."""
    folder = tmp_path / "videos"
    for number in range(2):
        write_video(folder / f"moving {number}.mp4", sample_videos.moving(48, 240, 320, seed=number))
    with open_video(folder / "moving 0.mp4") as video:
        write_video(folder / "small" / "again.mkv", np.stack([f[::2, ::2] for f in video.all_frames()]), crf=30)
    (folder / "small" / "copy.mp4").write_bytes((folder / "moving 1.mp4").read_bytes())
    write_video(folder / "still.mp4", square_on_still(48))
    (folder / "empty.mp4").touch()
    (folder / "torn.mp4").write_bytes((folder / "moving 0.mp4").read_bytes()[:3000])
    (folder / "text.avi").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def look(folder: Path, **options: Any) -> Audit:
    return audit(folder, **{"size": "tiny", **options})


def test_a_folder_is_described_in_numbers_sentences_and_one_page(videos: Path) -> None:
    result = look(videos, out="page.html")
    assert (result.videos_total, result.other_files) == (8, 1)
    assert result.findings.videos[0].path == "still.mp4"
    assert {one.path: one.reason for one in result.findings.refused} == {
        "empty.mp4": "empty", "text.avi": "not_a_video", "torn.mp4": "truncated",
    }  # fmt: skip
    assert result.findings.copies == [["moving 1.mp4", "small/copy.mp4"]]
    assert result.findings.similar == [["moving 0.mp4", "small/again.mkv"]]
    assert sum(result.findings.histogram) == pytest.approx(1, abs=1e-4)
    dropped = [row.tokens_dropped for row in result.findings.shares]
    assert dropped == sorted(dropped, reverse=True)
    assert "3 of the files cannot be used: " in " ".join(result.sentences)
    page = Path("page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3  # fewer than six: each once, and one of a group
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_savings_are_those_of_the_cost_model(videos: Path) -> None:
    result = look(videos, size="base")
    assert pretrain_gmacs("base", "everest", 0.3) == pytest.approx(19.8, abs=0.05)  # METHOD section 6
    assert pretrain_gmacs("base", "tube", 1.0) == pytest.approx(35.4, abs=0.05)
    for row, (gmacs, saved) in zip(result.findings.shares, result.savings, strict=True):
        assert gmacs == pytest.approx(pretrain_gmacs("base", "everest", max(0.02, 1 - row.tokens_dropped)))
        assert saved == pytest.approx(1 - gmacs / pretrain_gmacs("base", "tube", 1.0))
    everest, tube = result.trainings
    assert everest.hours == tube.hours, "five clips a step are bound by its launches"
    assert (everest.memory_gib or 0) < (tube.memory_gib or 0)
    everest, tube = trainings("base", Planner("h100", 1), 500, [0.3])
    assert everest.hours < tube.hours


def test_the_expected_disk_is_that_of_a_cache(videos: Path) -> None:
    rules = sample_videos.RULES
    records = audited(videos, ["moving 0.mp4"], rules)
    space = disk(list(records.values()))
    assert space.raw * 2**30 == pytest.approx(48 * 240 * 320 * 3)
    assert 0 < space.jpeg < space.raw
    assert space.maps * 2**30 == pytest.approx(48 / 3 * 392)


def test_fewer_videos_than_a_batch_and_several_devices_can_be_planned() -> None:
    for count, gpus in ((1, 1), (3, 8), (500, 2)):
        everest, _ = trainings("tiny", Planner("h100", gpus), count, [0.3])
        assert everest.batch % gpus == 0
        assert everest.hours > 0


def test_nothing_is_decoded_twice_by_audit_or_by_ingest_after_it(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = look(videos)
    notes = {name: (videos / NOTES / name).read_text() for name in ("audit.jsonl", "ingest.jsonl")}

    def refuse(*_: Any) -> Any:
        raise AssertionError("a process was started to decode")

    monkeypatch.setattr("pipeline.data.ingest.pool.Decoders", refuse)
    again = look(videos)
    assert again.findings == first.findings
    rules = sample_videos.RULES
    usable = [video.path for video in first.findings.videos]
    assert all(one.reason == "" for one in ingest.ingest(videos, usable, rules).values())
    assert {name: (videos / NOTES / name).read_text() for name in notes} == notes


def test_a_new_file_is_the_only_one_that_a_second_run_looks_at(videos: Path) -> None:
    look(videos)
    before = (videos / NOTES / "audit.jsonl").read_text()
    write_video(videos / "new.mp4", sample_videos.moving(32, seed=9))
    assert look(videos).videos_total == 9
    added = (videos / NOTES / "audit.jsonl").read_text().removeprefix(before)
    assert [json.loads(line)["path"] for line in added.splitlines()] == ["new.mp4"]


def test_ctrl_c_keeps_what_is_measured_and_the_same_command_goes_on(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "many"
    for number in range(60):
        sample_videos.write(folder / f"{number:02d}.mp4", seed=number)
    command = [sys.executable, "-m", "pipeline.cli", "audit", str(folder), "--size", "tiny", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(root)}
    )
    notes = folder / NOTES / "audit.jsonl"
    until = time.monotonic() + 90
    while (not notes.exists() or len(notes.read_text().splitlines()) < 3) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    kept = notes.read_text().splitlines()
    assert process.returncode == 130
    assert re.search(
        r"^stopped: \d+ of 60 videos are measured and kept; the same command goes on from there\.$",
        errors.decode(),
        re.M,
    )
    assert 3 <= len(kept) < 60
    assert look(folder).videos_total == 60
    paths = [json.loads(line)["path"] for line in notes.read_text().splitlines()]
    assert sorted(paths) == sorted(set(paths))
    assert len(paths) == 60


def test_one_video_is_a_folder_too(tmp_path: Path) -> None:
    write_video(tmp_path / "one" / "only.mp4", sample_videos.moving(40))
    result = look(tmp_path / "one")
    assert [video.path for video in result.findings.videos] == ["only.mp4"]
    assert result.sentences[0].startswith("1 of 1 video was looked at")


def one_clip(folder: Path) -> None:
    sample_videos.write(folder / "clip.mp4")


def unnamed(folder: Path) -> None:
    sample_videos.write(folder / "clip.mp4").rename(folder / "clip")


def nothing_in_it(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.mp4").touch()


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (Path.mkdir, {}, r"holds no video: none of its 0 files ends in .*Cure: name the folder"),
        (unnamed, {}, r"none of its 1 files ends in .*give them such"),
        (nothing_in_it, {}, r"none of the 1 video in .* can be looked at \(empty\). Cure"),
        (lambda f: None, {}, "is not a folder. Cure: name the folder"),
        (one_clip, {"gpu": "tpu"}, "gpu = 'tpu', expected one of h100"),
        (one_clip, {"gpus": 0}, "gpus = 0, expected at least 1"),
        (one_clip, {"size": "giant"}, "size = 'giant', expected one of tiny, mini, small"),
        (one_clip, {"out": "/proc/page/a.html"}, "Cure: name a page elsewhere"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_its_cure(tmp_path: Path, make: Any, options: dict[str, Any], says: str) -> None:
    make(tmp_path / "folder")
    with pytest.raises(InputError, match=says) as caught:
        look(tmp_path / "folder", **options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_takes_no_notes_loses_nothing(videos: Path) -> None:
    (videos / NOTES).touch()  # as on a read-only disk: no notes can be written there
    first = look(videos)
    (notes,) = Path().glob(".work/notes/*/audit.jsonl")
    before = notes.read_text()
    assert look(videos).findings == first.findings
    assert notes.read_text() == before


def test_names_of_any_kind_come_through(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    for name in ("<b>.mp4", "it's 100 %.mp4", "çå\u202e.mp4", "line\nend.mp4"):
        write_video(folder / name, sample_videos.moving(24))
    (folder / "it's 100 %.mp4").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4"))
    result = look(folder, out="page.html")
    assert [one.reason for one in result.findings.refused] == ["bad_name"]
    assert "<b>" not in Path("page.html").read_text()


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed_refused_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    for part in range(100):
        (folder / f"{part:02d}").mkdir(parents=True)
        for number in range(1000):
            path = folder / f"{part:02d}" / f"{number:03d}.mp4"
            path.touch()
            os.truncate(path, 50_000_000)  # sparse: 5 TB that nobody should hash
    write_video(folder / "good.mp4", sample_videos.moving(32))
    result = look(folder)
    assert (result.videos_total, len(result.findings.videos), len(result.findings.refused)) == (100_001, 1, 100_000)
    assert Path(result.page).stat().st_size < 1_000_000
    assert look(folder).seconds < 60


def test_the_command_prints_sentences_or_json(videos: Path) -> None:
    run = CliRunner().invoke(app, ["audit", str(videos), "--size", "tiny"], catch_exceptions=False)
    assert run.exit_code == 0
    assert run.output.splitlines()[-1] == "page: outputs/audit/audit.html"
    printed = json.loads(CliRunner().invoke(app, ["audit", str(videos), "--size", "tiny", "--json"]).output)
    assert printed["findings"]["similar"] == [["moving 0.mp4", "small/again.mkv"]]
    assert {row["change_kept"] for row in printed["findings"]["shares"]} == {0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99}


def test_real_clips_of_one_scene_are_found(shared_dir: Path) -> None:
    rules = sample_videos.RULES
    names = ["mmaction2/test.mp4", "mmaction2/part_0.mp4", "derived/vfr_gaps_h264.mp4", "derived/odd_341x255_vp9.webm",
             "mmaction2/demo.mp4", "tiny-ucf101/v_Basketball_g01_c01.avi"]  # fmt: skip
    summary = findings(audited(shared_dir / "clips", names, rules), rules)
    assert summary is not None
    assert sorted(map(sorted, summary.similar)) == [sorted([names[4], names[3]]), sorted(names[:3])]
