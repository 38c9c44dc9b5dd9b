"""Names of files and classes that hold anything, through the commands themselves: shown, stored, and nothing lost."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sample_videos
import timm
import torch
import yaml
from typer.testing import CliRunner

import models  # noqa: F401
from models.info import ModelInfo, Pixels, Views
from models.weights import save_model
from pipeline import layout
from pipeline.cli import app
from pipeline.data import manifest
from pipeline.data.ingest.memory import NOTES
from pipeline.params import check_params
from pipeline.stages import download
from pipeline.system.csv_files import read_rows
from pipeline.system.text import original, printable, storable

#: File names: markup, emoji codes, formulas, escapes, line ends, marks, long ones, bytes that are no text.
FILES = [
    "[id] a.mp4", "[/run].mp4", "[red]b[/red].mp4", ":car:.mp4", "=1+1.mp4", "@c.mp4", "-d.mp4", "a|b`<i>.mp4",
    "line\nend.mp4", "esc\x1b[2J.mp4", "\u202egnp.mp4", "{brace}%s$x$.mp4", r"\xff.mp4", "x" * 251 + ".mp4",
    os.fsdecode(b"caf\xe9.mp4"),
]  # fmt: skip
CLASSES = ["=cmd|' /C calc'!A0", "[/b] $x$_{", "line\nend"]


@pytest.fixture
def here(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's parameters."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "params.yaml").write_text((root / "params.yaml").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    return folder


def run(*arguments: str, code: int = 0) -> str:
    """What a command prints on stdout."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not any(character in result.stdout for character in "\x1b\u202e\r"), "something steers the terminal"
    return str(result.stdout)


def place(folder: Path, name: str) -> Path:
    """Where a file of that name lies; a slash makes a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A good video under each name."""
    folder = tmp_path / "videos"
    source = sample_videos.write(tmp_path / "source.mp4")
    for name in FILES:
        place(folder, name).write_bytes(source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    network = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=3, keep_ratio=0.5)
    info = ModelInfo(
        network.architecture, network.kwargs, "finetune", None, tuple(CLASSES), 1, Views(), Pixels(32, None)
    )
    save_model(network, folder, info.as_dict())
    return folder


def test_ingest_names_every_bad_file_as_it_is(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    for name in FILES:
        place(folder, name).write_text("<html>404 Not Found</html>" * 9)
    record = json.loads(run("ingest", str(folder), "--json"))
    paths = [row["path"] for row in record["quarantined"]]
    assert sorted(paths) == sorted(map(storable, FILES))
    table = run("ingest", str(folder))
    for name in FILES:
        assert any(line.strip().startswith(f"{printable(name)} ") for line in table.splitlines()), name
    for line in (folder / NOTES / "ingest.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["path"] in FILES


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_predict_loses_no_output_to_a_name(here: Path, videos: Path, model: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    pictures = ("--pictures", str(tmp_path / "pictures")) if suffix == ".csv" else ()
    shown = run("predict", str(videos), "--model", str(model), "--out", str(out), *pictures)
    assert all(printable(videos / name) in shown for name in FILES)
    if suffix == ".csv":
        rows = read_rows(out)
        assert rows[0] == ["video", "predicted", "reason", *CLASSES]
        with out.open(newline="") as file:  # as a spreadsheet reads it
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        pairs = [(row[0], row[1], row[2]) for row in rows[1:]]
        named = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert len(named) == sum(not reason for _, _, reason in pairs)
        assert all(len(os.fsencode(name)) <= 255 for name in named)
    elif suffix == ".json":
        rows = json.loads(out.read_text(encoding="utf-8"))
        pairs = [(row["video"], row["predicted"] or "", row["reason"]) for row in rows]
        assert all(set(row["probabilities"]) == set(CLASSES) for row in rows if row["probabilities"])
    else:
        table = pq.read_table(out)
        assert table.column_names == ["video", "predicted", "reason", *CLASSES]
        pairs = [(row["video"], row["predicted"] or "", row["reason"]) for row in table.to_pylist()]
    assert sorted(video for video, _, _ in pairs) == sorted(storable(str(videos / name)) for name in FILES)
    for _, predicted, reason in pairs:
        assert (predicted in CLASSES) != bool(reason)


@pytest.mark.parametrize("name", ["[/run] $x$_{.mp4", "line\nend\x1b.mp4", "x" * 251 + ".mp4"])
def test_show_draws_and_names_its_pictures(here: Path, tmp_path: Path, name: str) -> None:
    video = sample_videos.write(place(tmp_path / "videos", name))
    shown = run("show", str(video), "--out", str(tmp_path / "out"), "--frame-step", "1")
    files = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [Path(name).suffix for name in files] == [".gif", ".png"]
    assert all(printable(file) in shown for file in files)


def test_annotations_name_every_class(here: Path, tmp_path: Path) -> None:
    names = ["[id]", ":car:", "=1", "line\nend", os.fsdecode(b"caf\xe9")]
    for name in names:
        place(tmp_path / "mine", f"{name}/clip.mp4").touch()
    record = json.loads(run("annotations", "folder", "--root", str(tmp_path / "mine"), "--json"))
    assert sorted(record["class_names"]) == sorted(map(storable, names))
    shown = run("annotations", "folder", "--root", str(tmp_path / "mine"))
    assert "[id]" in shown or "class_names" not in shown


class _Silent:
    def __init__(self, *_: Any) -> None: ...
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...
    def metrics(self, values: dict[str, float]) -> None: ...
    def artifact(self, path: Path, folder: str) -> None: ...


def test_the_download_stage_lists_every_file_and_class(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "stage_run", _Silent)
    classes = ["=cat", "[dog]\n", os.fsdecode(b"caf\xe9")]
    for number, name in enumerate(classes):
        for split in ("train", "test"):
            sample_videos.write(
                place(tmp_path / "mine", f"{split}/{name}/@good[1]\n.mp4"), seed=2 * number + (split == "test")
            )
            place(tmp_path / "mine", f"{split}/{name}/=bad.mp4").write_text("none" * 50)
    raw = yaml.safe_load((here / "params.yaml").read_text())
    source = {"kind": "folder", "path": str(tmp_path / "mine"), "annotations": None}
    data = {"dataset": "folder", "split": 1, "classes": 3, "frame_step": 1, "source": source}
    raw["benchmarks"]["own"] = {"data": data, "finetune": {}, "evaluate": {}}
    raw["ingest"]["failure_budget"] = 1.0
    metrics = download.run(check_params(raw), "own")
    assert (metrics["videos_ok"], metrics["videos_total"]) == (4, 12)
    rows = manifest.load(layout.manifest_dir("own") / "manifest.parquet", status=None).to_pylist()
    for row in rows:
        if row["status"] == "ok":
            assert (layout.raw_dir("own") / row["path"]).is_file(), "a name that can be used is stored as it is"
        assert (layout.raw_dir("own") / original(row["path"])).is_file()
    assert {row["label_name"] for row in rows} == set(map(storable, classes))
    listed = read_rows(layout.manifest_dir("own") / "quarantine.csv")[1:]
    assert sorted(row[0] for row in listed) == sorted(row["path"] for row in rows if row["reason"])
    kept = json.loads((layout.manifest_dir("own") / "classes.json").read_text(encoding="utf-8"))
    assert sorted(kept["classes"]) == sorted(map(storable, classes))


def test_two_classes_of_one_name_are_two_columns(tmp_path: Path) -> None:
    import numpy as np

    from pipeline.evaluation.inference import Answer
    from pipeline.inference.predict import write

    names = ["a", "a", "a (1)", "video", "class video"]
    answer = Answer(np.asarray([0.1, 0.2, 0.3, 0.15, 0.25], dtype=np.float32), "")
    for suffix in (".csv", ".json", ".parquet"):
        write(tmp_path / f"out{suffix}", [("v.mp4", answer)], names)
    row = pq.read_table(tmp_path / "out.parquet").to_pylist()[0]
    assert [round(value, 2) for key, value in row.items() if isinstance(value, float)] == [0.1, 0.2, 0.3, 0.15, 0.25]
    assert len(read_rows(tmp_path / "out.csv")[0]) == len(set(read_rows(tmp_path / "out.csv")[0])) == 8
    assert len(json.loads((tmp_path / "out.json").read_text())[0]["probabilities"]) == 5
