from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import sample_videos

from pipeline.data.ingest.ingest import command, ingest
from pipeline.data.ingest.measure import VERSION
from pipeline.data.ingest.memory import NOTES
from pipeline.data.ingest.rows import manifest_rows, quarantine_csv
from pipeline.data.ingest.verdicts import Measurement, verdict
from pipeline.data.sources import ListedVideo, Listing
from pipeline.errors import InputError
from pipeline.params import IngestParams

#: Stands before the real PyAV and misbehaves by a file's name.
BAD_AV = """
import ctypes, os, sys
_here = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(_here)
del sys.modules["av"]
import av as _real
sys.path.insert(0, _here)
_open = _real.open
def open(path, *args, **kwargs):
    name = os.path.basename(path)
    if name.startswith("spin"):
        ctypes.PyDLL(None).sleep(1000)  # holds the lock: no signal handler, no thread runs
    if name.startswith("crash"):
        ctypes.string_at(0)
    if name.startswith("greedy"):
        hoard = [bytearray(1 << 28) for _ in range(64)]
    return _open(path, *args, **kwargs)
_real.open = open
sys.modules["av"] = _real
"""


@pytest.fixture
def bad_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "before"
    folder.mkdir()
    (folder / "av.py").write_text(BAD_AV)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def quick(limits: IngestParams, **changes: float) -> IngestParams:
    return limits.model_copy(update=changes)


def listing(paths: list[str]) -> Listing:
    videos = [ListedVideo(path, path, ("train",), 0, "any", "test") for path in paths]
    return Listing(["any"], videos)


def test_every_kind_of_bad_video_gets_its_reason(tmp_path: Path, limits: IngestParams) -> None:
    expected = sample_videos.corpus(tmp_path)
    measured = ingest(tmp_path, list(expected), limits)
    rows, messages = manifest_rows(listing(list(expected)), measured, 1, limits)
    assert {row["path"]: row["reason"] for row in rows} == expected
    assert {row["status"] for row in rows if row["reason"]} == {"quarantined"}
    assert len(set(expected.values()) - {""}) == 16
    lines = quarantine_csv(rows, messages).splitlines()
    assert lines[0] == "path,video_id,split,reason,message"
    assert len(lines) == 1 + sum(bool(reason) for reason in expected.values())


def test_what_a_good_video_holds_is_recorded(tmp_path: Path, limits: IngestParams) -> None:
    sample_videos.write(tmp_path / "clip.mp4", frames=20)
    measurement = ingest(tmp_path, ["clip.mp4"], limits)["clip.mp4"]
    assert (measurement.frames_declared, measurement.frames_decoded, measurement.width, measurement.height) == (
        20,
        20,
        64,
        64,
    )
    assert (measurement.reader, measurement.rotation, measurement.repeated_run, measurement.fps) == ("pyav", 0, 1, 25.0)
    assert measurement.bytes == (tmp_path / "clip.mp4").stat().st_size
    assert len(measurement.sha256) == 64


@pytest.mark.usefixtures("bad_pyav")
def test_a_decoder_that_spins_with_the_lock_held_is_killed_at_its_deadline(
    tmp_path: Path, limits: IngestParams
) -> None:
    names = [f"good{number}.mp4" for number in range(12)]
    for number, name in enumerate(names):
        sample_videos.write(tmp_path / name, seed=number)
    for name in ("spin1.mp4", "spin2.mp4"):
        sample_videos.write(tmp_path / name)
    # Start-up of processes is not part of a file's deadline.
    ingest(tmp_path, ["good0.mp4"], quick(limits, workers=1))
    started = time.monotonic()
    measured = ingest(tmp_path, ["spin1.mp4", *names, "spin2.mp4"], quick(limits, deadline_seconds=3.0))
    seconds = time.monotonic() - started
    assert {name: verdict(result, limits) for name, result in measured.items() if result.reason} == {
        "spin1.mp4": "deadline",
        "spin2.mp4": "deadline",
    }
    assert all(not measured[name].reason for name in names)  # no good clip is lost
    assert seconds < 25


@pytest.mark.usefixtures("bad_pyav")
def test_a_crash_costs_no_other_file_and_gets_a_second_reader(tmp_path: Path, limits: IngestParams) -> None:
    for number, name in enumerate(("a.mp4", "crash.mp4", "b.mp4")):
        sample_videos.write(tmp_path / name, seed=number)
    measured = ingest(tmp_path, ["a.mp4", "crash.mp4", "b.mp4"], limits)
    assert {name: result.reason for name, result in measured.items()} == dict.fromkeys(measured, "")
    assert measured["crash.mp4"].reader == "decord"
    # Alone with an idle process beside it, which then takes the file.
    sample_videos.write(tmp_path / "crash_last.mp4", seed=9)
    slow = sample_videos.write(tmp_path / "crash_slow.mp4", frames=400, seed=8)
    alone = ingest(tmp_path, ["crash_last.mp4", slow.name], quick(limits, workers=2))
    assert {result.reader for result in alone.values()} == {"decord"}


@pytest.mark.usefixtures("bad_pyav")
def test_a_decoder_that_wants_too_much_memory_is_stopped(tmp_path: Path, limits: IngestParams) -> None:
    for number, name in enumerate(("a.mp4", "greedy.mp4", "b.mp4")):
        sample_videos.write(tmp_path / name, seed=number)
    measured = ingest(tmp_path, ["a.mp4", "greedy.mp4", "b.mp4"], limits)
    assert measured["greedy.mp4"].reason == "memory"
    assert not measured["a.mp4"].reason
    assert not measured["b.mp4"].reason


def test_a_real_file_may_exceed_the_deadline_or_the_memory(tmp_path: Path, limits: IngestParams) -> None:
    sample_videos.huge(tmp_path / "huge.mp4")
    sample_videos.write(tmp_path / "good.mp4")
    names = ["huge.mp4", "good.mp4"]
    ingest(tmp_path, ["good.mp4"], limits)  # the good one is known, so only the huge one is tried
    late = ingest(tmp_path, names, quick(limits, deadline_seconds=0.2))
    assert {name: late[name].reason for name in names} == {"huge.mp4": "deadline", "good.mp4": ""}
    greedy = ingest(tmp_path, names, quick(limits, deadline_seconds=59.0, memory_gib=0.65))
    assert {name: greedy[name].reason for name in names} == {"huge.mp4": "memory", "good.mp4": ""}


def test_an_unchanged_file_is_not_decoded_again(tmp_path: Path, limits: IngestParams) -> None:
    path = sample_videos.write(tmp_path / "clip.mp4")
    first = ingest(tmp_path, ["clip.mp4"], limits)
    notes = (tmp_path / NOTES / "ingest.jsonl").read_text()
    assert ingest(tmp_path, ["clip.mp4"], limits) == first
    assert (tmp_path / NOTES / "ingest.jsonl").read_text() == notes
    sample_videos.write(path, frames=30)
    assert ingest(tmp_path, ["clip.mp4"], limits)["clip.mp4"].frames_decoded == 30


def test_what_a_read_only_folder_cannot_keep_is_kept_in_the_project(
    tmp_path: Path, limits: IngestParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, project = tmp_path / "videos", tmp_path / "project"
    sample_videos.write(videos / "clip.mp4")
    (videos / NOTES).touch()  # a file where the folder should be: no user may make one there
    project.mkdir()
    monkeypatch.chdir(project)
    assert command(videos, limits)["videos_ok"] == 1
    (notes,) = project.glob(".work/notes/*/ingest.jsonl")
    before = notes.read_text()
    assert command(videos, limits)["videos_ok"] == 1
    assert notes.read_text() == before  # nothing was measured again


@pytest.mark.parametrize("planted", ["link to nothing", "link to a file", "pipe"])
@pytest.mark.parametrize("name", ["ingest.jsonl", "ingest.lock"])
def test_notes_are_never_written_through_what_another_user_put_in_their_place(
    tmp_path: Path, limits: IngestParams, monkeypatch: pytest.MonkeyPatch, planted: str, name: str
) -> None:
    videos, project, target = tmp_path / "videos", tmp_path / "project", tmp_path / "mine"
    sample_videos.write(videos / "clip.mp4")
    (videos / NOTES).mkdir()
    if name == "ingest.lock":  # taken where notes are to be written anew
        (videos / NOTES / "ingest.jsonl").write_text("stale\n" * 3)
    if planted == "link to a file":
        target.write_text("of mine")
    if planted == "pipe":
        os.mkfifo(videos / NOTES / name)
    else:
        (videos / NOTES / name).symlink_to(target)
    project.mkdir()
    monkeypatch.chdir(project)
    assert command(videos, limits)["videos_ok"] == 1
    assert (target.read_text() if target.exists() else None) == ("of mine" if planted == "link to a file" else None)
    (notes,) = project.glob(".work/notes/*/ingest.jsonl")
    assert notes.read_text().count("clip.mp4") == 1


def test_a_folder_that_takes_no_notes_anywhere_is_measured_all_the_same(
    tmp_path: Path, limits: IngestParams, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_videos.write(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    for name in (NOTES, ".work"):
        (tmp_path / name).touch()
    assert command(tmp_path, limits)["videos_ok"] == 1
    assert "cannot be written" in caplog.text


def test_a_disk_that_is_full_costs_the_notes_alone(tmp_path: Path, root: Path, limits: IngestParams) -> None:
    for number in range(4):
        sample_videos.write(tmp_path / f"{number}.mp4", seed=number)
    code = (
        "import logging, resource, sys; from pathlib import Path; from pipeline.data.ingest.ingest import command\n"
        "from pipeline.params import IngestParams; logging.basicConfig()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (800, 800))\n"
        "print(command(Path(sys.argv[1]), IngestParams.model_validate_json(sys.argv[2]))['videos_ok'])"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), limits.model_dump_json()]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"
    assert done.stderr.count("cannot be written (File too large)") == 1
    assert command(tmp_path, limits)["videos_ok"] == 4  # what was written of the last note is passed over


def test_a_folder_without_videos_is_refused(tmp_path: Path, limits: IngestParams) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds no video: none of its 1 files ends in one of"):
        command(tmp_path, limits)


def test_a_deadline_that_was_raised_is_tried_again(tmp_path: Path, limits: IngestParams) -> None:
    path = sample_videos.write(tmp_path / "clip.mp4")
    measurement = Measurement(bytes=path.stat().st_size, mtime_ns=path.stat().st_mtime_ns, reason="deadline")
    entry = {"path": "clip.mp4", "version": VERSION, "limits": [5.0, 2**31], "found": asdict(measurement)}
    (tmp_path / NOTES).mkdir()
    (tmp_path / NOTES / "ingest.jsonl").write_text(json.dumps(entry) + '\n{"path": "torn')
    assert ingest(tmp_path, ["clip.mp4"], quick(limits, deadline_seconds=5.0))["clip.mp4"].reason == "deadline"
    assert ingest(tmp_path, ["clip.mp4"], quick(limits, deadline_seconds=30.0))["clip.mp4"].reason == ""
    # The torn line was closed, so the new one is whole and is found again.
    assert ingest(tmp_path, ["clip.mp4"], quick(limits, deadline_seconds=5.0))["clip.mp4"].reason == ""


def test_ten_thousand_unchanged_files_take_less_than_five_seconds(tmp_path: Path, limits: IngestParams) -> None:
    source = sample_videos.write(tmp_path / "clip.mp4")
    measurement = ingest(tmp_path, ["clip.mp4"], limits)["clip.mp4"]
    names = [f"{number}.mp4" for number in range(10_000)]
    with (tmp_path / NOTES / "ingest.jsonl").open("a") as notes:
        for name in names:
            os.link(source, tmp_path / name)
            entry = {"path": name, "version": VERSION, "limits": [60.0, 2**31], "found": asdict(measurement)}
            notes.write(json.dumps(entry) + "\n")
    started = time.process_time()
    measured = ingest(tmp_path, names, limits)
    assert time.process_time() - started < 5
    assert len(measured) == 10_000
    assert set(measured.values()) == {measurement}


def test_a_killed_ingest_is_continued(tmp_path: Path, limits: IngestParams) -> None:
    for number in range(40):
        sample_videos.write(tmp_path / f"{number}.mp4", seed=number)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.data.ingest.ingest import *; from pipeline.params import *\n"
        "params = IngestParams.model_validate_json(sys.argv[2])\n"
        "root = Path(sys.argv[1]); ingest(root, video_files(root)[0], params)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), limits.model_dump_json()])
    notes = tmp_path / NOTES / "ingest.jsonl"
    deadline = time.monotonic() + 60
    while (not notes.exists() or notes.stat().st_size < 2000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(notes.read_text().splitlines())
    result = command(tmp_path, limits)
    assert (result["videos_ok"], result["videos_total"]) == (40, 40)
    after = [json.loads(line)["path"] for line in notes.read_text().splitlines() if line.endswith("}")]
    assert before >= 2
    assert len(set(after)) == 40
    assert len(after) <= 41  # nothing that was noted was measured again


def test_the_worker_imports_no_torch(root: Path) -> None:
    code = "import sys, pipeline.data.ingest.worker, pipeline.data.ingest.ingest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_real_clips_are_classified(shared_dir: Path, tmp_path: Path, limits: IngestParams) -> None:
    (tmp_path / "clips").symlink_to(shared_dir / "clips")
    result = command(tmp_path, limits)
    assert result["videos_total"] == 30
    assert {Path(row["path"]).name: row["reason"] for row in result["quarantined"]} == {
        "corrupted.mp4": "declared_more_than_decoded",
        "empty.mp4": "empty",
        "short_9frames.mp4": "too_short",
        "truncated_half_abseiling.mp4": "truncated",
        "truncated_half_demo.mp4": "truncated",
        "truncated_half_ucf.avi": "declared_more_than_decoded",
        "unordered.mov": "too_short",
        "video_0.mov": "too_short",
        "video_90.mov": "too_short",
        "video_180.mov": "too_short",
        "video_270.mov": "too_short",
        "h265_video.mp4": "too_short",
    }
    assert Counter(result["reasons"]) == Counter(row["reason"] for row in result["quarantined"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path: Path, limits: IngestParams) -> None:
    sample_videos.write(tmp_path / "clip.mp4").chmod(0)
    assert ingest(tmp_path, ["clip.mp4"], limits)["clip.mp4"].reason == "unreadable"


def test_a_name_that_is_not_text_is_refused_by_its_reason(tmp_path: Path, limits: IngestParams) -> None:
    source = sample_videos.write(tmp_path / "clip.mp4")
    source.rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    result = command(tmp_path, limits)
    assert [(row["path"], row["reason"]) for row in result["quarantined"]] == [("caf\\xe9.mp4", "bad_name")]
