from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.video import write_video
from pipeline.errors import EverestError, InputError
from pipeline.params import Params, check_params
from pipeline.stages import download

RUN = (
    "import contextlib, sys; from pipeline.stages import download\n"
    "from pipeline.params import load_params\n"
    "class Run:\n"
    "    metrics = artifact = lambda *_: None\n"
    "download.stage_run = lambda *_: contextlib.nullcontext(Run())\n"
    "print('go', flush=True); download.run(load_params(), 'own')"
)


class _Silent:
    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def metrics(self, values: dict[str, float]) -> None:
        pass

    def artifact(self, path: Path, folder: str) -> None:
        pass


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    monkeypatch.setattr(download, "stage_run", _Silent)
    return folder


def write(path: Path, seed: int, frames: int = 16) -> Path:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, blocks.repeat(8, 1).repeat(8, 2))
    return path


def raw_params(root: Path, source: dict[str, Any], dataset: str = "folder", classes: int = 2) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((root / "recipes" / "drawn.yaml").read_text())
    data = {"dataset": dataset, "split": 1, "classes": classes, "frame_step": 1, "source": source}
    raw["benchmarks"]["own"] = {"data": data, "finetune": {}, "evaluate": {}}
    return raw


def params(root: Path, source: dict[str, Any], **more: Any) -> Params:
    budget = more.pop("budget", 0.02)
    raw = raw_params(root, source, **more)
    raw["ingest"]["failure_budget"] = budget
    return check_params(raw)


def own_videos(folder: Path, count: int = 12) -> dict[str, Any]:
    for number in range(count):
        split = ("train", "train", "val", "test")[number % 4]
        write(folder / split / ("cat's [1]", "dog")[number // 4 % 2] / f"clip {number}.mp4", number)
    return {"kind": "folder", "path": str(folder)}


def rows() -> dict[str, dict[str, Any]]:
    table = manifest.load(layout.manifest_dir("own") / "manifest.parquet", status=None)
    return {Path(row["path"]).name: row for row in table.to_pylist()}


def test_your_own_folder_becomes_a_manifest(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine")
    metrics = download.run(params(root, source), "own")
    assert (metrics["videos_ok"], metrics["videos_total"], metrics["classes"]) == (12, 12, 2)
    headline = json.loads(layout.metrics_file("download", "own").read_text())
    assert headline == {
        "data/videos_ok": 12, "data/videos_total": 12, "efficiency/wall_seconds": metrics["seconds"]
    }  # fmt: skip
    result = rows()
    assert result["clip 0.mp4"]["path"] == "videos/train/cat's [1]/clip 0.mp4"
    assert all((layout.raw_dir("own") / row["path"]).is_file() for row in result.values())
    assert json.loads((layout.manifest_dir("own") / "classes.json").read_text())["classes"] == [
        "cat's [1]",
        "dog",
    ]
    assert (layout.manifest_dir("own") / "quarantine.csv").read_text() == "path,video_id,split,reason,message\n"
    assert str(tmp_path) not in json.dumps(result)  # a manifest holds no machine's paths


def test_a_second_run_writes_the_same_bytes(tmp_path: Path, root: Path) -> None:
    settings = params(root, own_videos(tmp_path / "mine"))
    download.run(settings, "own")
    first = {path.name: path.read_bytes() for path in layout.manifest_dir("own").iterdir()}
    download.run(settings, "own")
    assert {path.name: path.read_bytes() for path in layout.manifest_dir("own").iterdir()} == first


def test_bad_videos_are_listed_with_their_reasons(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine")
    (tmp_path / "mine/test/dog/empty.mp4").touch()
    write(tmp_path / "mine/test/dog/short.mp4", 99, frames=4)
    metrics = download.run(params(root, source, budget=0.2), "own")
    assert metrics["reasons"] == {"empty": 1, "too_short": 1}
    assert metrics["splits"]["test"] == {"videos_ok": 3, "videos_total": 5}  # never a substitute
    with (layout.manifest_dir("own") / "quarantine.csv").open(newline="") as file:
        assert [(row["video_id"], row["reason"]) for row in csv.DictReader(file)] == [
            ("test/dog/empty", "empty"),
            ("test/dog/short", "too_short"),
        ]


def test_more_bad_videos_than_the_budget_stop_the_stage_with_a_list(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine")
    (tmp_path / "mine/test/dog/empty.mp4").touch()
    with pytest.raises(EverestError, match=r"1 of 13 videos of own cannot be used \(7\.7%\)") as caught:
        download.run(params(root, source), "own")
    assert "empty: videos/test/dog/empty.mp4" in str(caught.value)
    assert not layout.manifest_dir("own").exists()


def test_a_training_video_that_is_also_a_test_video_is_refused(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine")
    copied = (tmp_path / "mine/test/cat's [1]/clip 3.mp4").read_bytes()
    (tmp_path / "mine/train/dog/a copy.mp4").write_bytes(copied)
    metrics = download.run(params(root, source), "own")
    assert metrics["reasons"] == {"duplicate": 1}  # no failure: the budget does not count it
    assert rows()["a copy.mp4"]["reason"] == "duplicate"
    assert rows()["clip 3.mp4"]["status"] == "ok"
    assert "clip 3.mp4 in split test" in (layout.manifest_dir("own") / "quarantine.csv").read_text()


def test_a_table_may_pin_hashes_and_name_files_that_are_missing(tmp_path: Path, root: Path) -> None:
    own_videos(tmp_path / "mine", 4)
    table = tmp_path / "mine" / "table.csv"
    table.write_text(
        "path,label,split,sha256\n"
        f"train/cat's [1]/clip 0.mp4,cat,train,{'0' * 64}\n"
        "train/cat's [1]/clip 1.mp4,dog,train,\n"
        "test/cat's [1]/clip 3.mp4,dog,test,\n"
        "gone.mp4,cat,test,\n"
    )
    source = {"kind": "folder", "path": str(tmp_path / "mine"), "annotations": "table.csv"}
    metrics = download.run(params(root, source, budget=0.5), "own")
    assert metrics["reasons"] == {"missing": 1, "wrong_hash": 1}


def test_a_wrong_number_of_classes_is_named(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine")
    with pytest.raises(InputError, match=r"benchmarks\.own\.data\.classes = 3, the annotations name 2"):
        download.run(params(root, source, classes=3), "own")


def test_a_dry_run_refuses_a_wrong_folder_and_names_what_to_place_by_hand(root: Path) -> None:
    with pytest.raises(InputError, match=r"source\.path = '/nowhere' is not a folder"):
        download.plan(params(root, {"kind": "folder", "path": "/nowhere"}), "own")
    planned = download.plan(params(root, {"kind": "official"}, dataset="ssv2", classes=174), "own")
    assert (planned["files_missing"], planned["sizes_unknown"]) == (24, 24)
    assert planned["files"][19]["name"] == "downloads/20bn-something-something-v2-19"
    assert "by hand, from https://" in planned["files"][19]["url"]
    assert planned["bytes_free"] > 0


def test_a_raw_folder_that_cannot_be_written_is_named(tmp_path: Path, root: Path) -> None:
    source = own_videos(tmp_path / "mine", 4)
    layout.raw_dir("own").parent.mkdir(parents=True)
    layout.raw_dir("own").touch()  # a file in its place: no user may make a folder there
    with pytest.raises(EverestError, match=r"data/raw/own.*Cure: free some space or mend the folder's permissions"):
        download.run(params(root, source), "own")


def test_generated_videos_need_no_network(root: Path) -> None:
    source = {"kind": "generated", "task": "state_change", "seed": 5, "train": 6, "val": 2, "test": 2}
    settings = params(root, source | {"frames": 16, "size": 32}, dataset="generated")
    metrics = download.run(settings, "own")
    assert (metrics["videos_ok"], metrics["frames_decoded"]) == (10, 160)
    assert {row["source"] for row in rows().values()} == {"generated:state_change:5"}
    plan = download.plan(settings, "own")
    assert (plan["files_total"], plan["files_missing"]) == (10, 0)


def test_videos_may_lie_on_another_disk(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_DATA", str(tmp_path / "store"))
    download.run(params(root, own_videos(tmp_path / "mine")), "own")
    assert (tmp_path / "store/raw/own/videos").is_symlink()
    assert not Path("data/raw").exists()


def start(project: Path, root: Path, raw: dict[str, Any]) -> subprocess.Popen[bytes]:
    (project / "params.yaml").write_text(yaml.safe_dump(raw))
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=project, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def kill_and_continue(project: Path, root: Path, raw: dict[str, Any], trials: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(trials):
        process = start(project, root, raw)
        time.sleep(rng.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        path = layout.manifest_dir("own") / "manifest.parquet"
        if path.exists():
            assert manifest.load(path, status=None).num_rows == 40
        for video in layout.raw_dir("own").rglob("*_?????.mp4"):
            if not video.name.startswith("."):
                assert video.read_bytes()[4:8] == b"ftyp"
                assert b"moov" in video.read_bytes()
    metrics = download.run(check_params(raw), "own")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (40, 40)


def generated(root: Path) -> dict[str, Any]:
    source = {"kind": "generated", "task": "motion", "seed": 6, "train": 30, "val": 5, "test": 5}
    return raw_params(root, source | {"frames": 16, "size": 64}, dataset="generated", classes=8)


def test_a_killed_stage_leaves_nothing_partial_and_is_continued(project: Path, root: Path) -> None:
    kill_and_continue(project, root, generated(root), trials=1)


@pytest.mark.slow
def test_many_kills_leave_nothing_partial(project: Path, root: Path) -> None:
    kill_and_continue(project, root, generated(root), trials=20)


def test_two_stages_on_one_folder_do_not_hurt_each_other(project: Path, root: Path) -> None:
    both = [start(project, root, generated(root)) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    result = manifest.load(layout.manifest_dir("own") / "manifest.parquet", status=None)
    assert result.num_rows == 40
    assert set(result["status"].to_pylist()) == {"ok"}
    notes = (layout.raw_dir("own") / ".everest/ingest.jsonl").read_text().splitlines()
    assert len(notes) == 40  # each video was decoded once


def test_a_full_disk_is_told_and_leaves_nothing_under_a_final_name(project: Path, root: Path, tmp_path: Path) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(generated(root)))
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n" + RUN
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Cure: free some space" in done.stderr
    left = [path for path in layout.raw_dir("own").rglob("*.mp4") if not path.name.startswith(".")]
    assert all(b"moov" in path.read_bytes() for path in left)
    assert not layout.manifest_dir("own").exists()
