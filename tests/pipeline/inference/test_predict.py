"""Predicting real videos with models from a folder, a run and the registry; what is refused."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import socket
import time
from contextlib import chdir, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import sample_videos
import timm
import tiny_classifier
from PIL import Image
from predictions import command
from small_benchmark import make, params
from typer.testing import CliRunner

import models  # noqa: F401
from models.info import ModelInfo, Pixels, Views
from models.weights import save_model, write_info
from pipeline import layout
from pipeline.cli import app
from pipeline.data.cache.read import Cache
from pipeline.data.frame_step import Step
from pipeline.data.ingest import ingest
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.reading import PORTION
from pipeline.data.ingest.verdicts import REASONS
from pipeline.data.video import VideoError, open_video, write_video
from pipeline.data.video.shrink import shrink
from pipeline.errors import EverestError, InputError
from pipeline.evaluation.views import video_views
from pipeline.inference.isolated import IsolatedViews
from pipeline.model_folder import sha256
from pipeline.params import load_params
from pipeline.pictures.look import show
from pipeline.stages import preprocess
from tests.pipeline.data.ingest.test_ingest import BAD_AV

NAMES = list(tiny_classifier.NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier that tells videos apart, described as the registry keeps one."""
    return tiny_classifier.save(tmp_path_factory.mktemp("model"), 1, Views(2, 1))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Four good videos, two of them with the same name, and two bad ones between them."""
    folder = tmp_path / "videos"
    for number, name in enumerate(("a/clip.mp4", "b/clip.mp4", "c one.mp4", "z.mkv")):
        sample_videos.write(folder / name, seed=number)
    (folder / "b/broken.mp4").write_text("<html>404 Not Found</html>" * 20)
    sample_videos.truncated(folder / "cut.mp4", 0.4, fast_start=False)
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a project."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


GOOD = ["a/clip.mp4", "b/clip.mp4", "c one.mp4", "z.mkv"]


def test_a_folder_is_searched_and_bad_videos_cost_no_other_its_prediction(videos: Path, model: Path) -> None:
    result = command([str(videos)], str(model))
    assert [row["video"] for row in result["predictions"]] == [str(videos / name) for name in GOOD]
    for row in result["predictions"]:
        assert row["class"] == NAMES[row["predicted"]]
        assert 1 / 3 <= row["probability"] <= 1
    assert [row["video"] for row in result["failed"]] == [str(videos / n) for n in ("b/broken.mp4", "cut.mp4")]
    assert all(len(row["reason"]) > 10 for row in result["failed"])


def test_a_decoder_that_hangs_crashes_or_eats_memory_costs_that_video_alone(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("spin.mp4", "a.mp4", "crash.mp4", "greedy.mp4", "b.mp4")):
        sample_videos.write(tmp_path / "videos" / name, seed=number)
    plain = command([str(tmp_path / "videos")], str(model))["predictions"]
    assert len(plain) == 5
    (tmp_path / "before").mkdir()
    (tmp_path / "before/av.py").write_text(BAD_AV)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "before"))
    text = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("deadline_seconds: 60.0", "deadline_seconds: 8.0"))
    monkeypatch.chdir(tmp_path)
    result = command(["videos"], str(model), pictures="pictures")
    assert {row["video"]: row["reason"] for row in result["failed"]} == {
        "videos/greedy.mp4": "videos/greedy.mp4: decoding needs more than ingest.memory_gib = 2",
        "videos/spin.mp4": "videos/spin.mp4: not decoded within ingest.deadline_seconds = 8; its process was killed",
    }
    assert (result["videos_ok"], result["videos_total"]) == (3, 5)
    probabilities = {Path(row["video"]).name: row["probability"] for row in plain}
    for row in result["predictions"]:  # crash.mp4 among them: decord reads what PyAV fell over
        assert row["probability"] == probabilities[Path(row["video"]).name]
    assert len(list(Path("pictures").iterdir())) == 3
    assert [child for child in psutil.Process().children() if "ingest.worker" in str(child.cmdline())] == []


def test_views_of_a_file_are_those_of_the_cache_to_the_bit(nowhere: Path) -> None:
    make(2, sizes=((96, 128), (128, 96)))
    preprocess.run(params(), "small")
    cache = Cache.open(layout.cache_dir("small"))
    how = {"frames": 8, "step": 2, "segments": 3, "crops": 2, "grid": 1}
    with closing(IsolatedViews(Limits(60, 4 << 30), workers=1)) as reader:
        for row, name in enumerate(cache.ids):
            cached = video_views(partial(cache.frames, row), cache.num_frames(row), **how)
            result = reader.read(layout.raw_dir("small") / f"{name}.mp4", how, Step(how["step"]), short_side=64)
            assert result.shape == (6, 8, 64, 64, 3)
            assert np.array_equal(result, cached)
            whole = reader.read(layout.raw_dir("small") / f"{name}.mp4", how, Step(how["step"]))
            assert whole.shape == (6, 8, 96, 96, 3)


def test_a_pipe_a_socket_and_a_link_to_nowhere_are_refused_at_once(videos: Path, model: Path) -> None:
    os.mkfifo(videos / "pipe.mp4")
    (videos / "nowhere.mp4").symlink_to("absent.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        with chdir(videos):  # a socket's path has at most 107 bytes
            listening.bind("socket.mp4")
        began = time.monotonic()
        result = command([str(videos)], str(model))
    assert time.monotonic() - began < 40  # one pipe took the whole deadline of 60 s
    failed = {Path(row["video"]).name: row["reason"] for row in result["failed"]}
    assert result["videos_ok"] == len(GOOD)
    assert failed["pipe.mp4"] == f"{videos}/pipe.mp4 is not a regular file"
    assert failed["socket.mp4"] == f"{videos}/socket.mp4 is not a regular file"
    assert failed["nowhere.mp4"] == f"{videos}/nowhere.mp4 does not exist"


def test_predict_show_and_ingest_refuse_the_same_files_in_the_same_words(
    model: Path, tmp_path: Path, nowhere: Path, root: Path
) -> None:
    folder = tmp_path / "bad"
    sample_videos.write(folder / "short.mp4", frames=6)
    sample_videos.static(folder / "still.mp4", 100)
    sample_videos.truncated(folder / "lost.mp4", 0.4, fast_start=False)
    (folder / "page.mp4").write_text("<html>404 Not Found</html>" * 20)
    os.mkfifo(folder / "pipe.mp4")
    rules = load_params(root / "params.yaml").ingest
    messages = {
        row["path"]: row["message"] or REASONS[row["reason"]] for row in ingest.command(folder, rules)["quarantined"]
    }
    (nowhere / "params.yaml").write_text((root / "params.yaml").read_text())
    failed = {Path(row["video"]).name: row["reason"] for row in command([str(folder)], str(model))["failed"]}
    assert sorted(messages) == sorted(failed) == ["lost.mp4", "page.mp4", "pipe.mp4", "short.mp4", "still.mp4"]
    for name, words in messages.items():
        assert words in failed[name]
        with pytest.raises(InputError, match=re.escape(words)):
            show(folder / name, None, tmp_path / "pictures")


def test_frames_are_shrunk_as_they_come(tmp_path: Path) -> None:
    # 64 frames of 1280 x 720 are 177 MB; a process with torch's address space and all of them would need more.
    video = tmp_path / "large.mp4"
    write_video(video, sample_videos.moving(64, 720, 1280))
    how = {"frames": 8, "step": 1, "segments": 8, "crops": 1, "grid": 1}
    limits = Limits(120, 700 << 20)
    with closing(IsolatedViews(limits, workers=1)) as reader:
        views = reader.read(video, how, Step(how["step"]), short_side=64)
        assert views.shape == (8, 8, 64, 64, 3)
        assert os.fstat(reader._decoders._all[0].memory.fileno()).st_size <= PORTION
        again = reader.read(video, {**how, "segments": 1}, Step(how["step"]), short_side=64)
    with closing(IsolatedViews(Limits(120, 160 << 20), workers=1)) as reader, pytest.raises(EverestError):
        reader.read(video, how, Step(how["step"]))  # unshrunk they are more than the limit, wherever they lie
    with open_video(video) as whole:
        expected = shrink(whole.frames(range(64)), 64)
    assert np.array_equal(again[0], expected[28:36, :, 25:89])


def test_files_and_folders_mix_and_each_video_comes_once(videos: Path, model: Path) -> None:
    result = command([str(videos / "z.mkv"), str(videos / "a"), str(videos / "a/clip.mp4")], str(model))
    assert [Path(row["video"]).name for row in result["predictions"]] == ["z.mkv", "clip.mp4"]


def test_the_result_does_not_depend_on_the_batch(videos: Path, model: Path) -> None:
    one, many = (command([str(videos)], str(model), batch=batch)["predictions"] for batch in (1, 64))
    assert [row["predicted"] for row in one] == [row["predicted"] for row in many]
    assert [row["probability"] for row in one] == pytest.approx([row["probability"] for row in many], abs=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_all_probabilities_are_written_and_bad_videos_have_a_reason(
    suffix: str, videos: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new folder" / f"answers{suffix}"
    result = command([str(videos)], str(model), out=str(out))
    rows: list[dict[str, Any]]
    if suffix == ".csv":
        rows = [
            {**row, **{name: float(row[name]) if row[name] else None for name in NAMES}}
            for row in csv.DictReader(out.open())
        ]
    elif suffix == ".json":
        empty = dict.fromkeys(NAMES)
        rows = [{**row, **(row["probabilities"] or empty)} for row in json.loads(out.read_text())]
    else:
        rows = pq.read_table(out).to_pylist()
    assert len(rows) == 6
    by_video = {row["video"]: row for row in rows}
    for row in result["predictions"]:
        kept = by_video[row["video"]]
        assert kept["predicted"] == row["class"]
        assert sum(kept[name] for name in NAMES) == pytest.approx(1, abs=1e-5)
        assert kept[row["class"]] == pytest.approx(row["probability"], abs=1e-5)
        assert kept["reason"] == ""
    for row in result["failed"]:
        kept = by_video[row["video"]]
        assert (kept["predicted"] or None, kept["reason"]) == (None, row["reason"])
        assert all(kept[name] is None for name in NAMES)


def test_pictures_show_the_kept_tokens_of_every_readable_video(videos: Path, model: Path, tmp_path: Path) -> None:
    command([str(videos)], str(model), pictures=str(tmp_path / "pictures"))
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name[6:] for file in files] == ["clip.png", "clip.png", "c one.png", "z.png"]
    picture = Image.open(files[0])
    assert picture.width == 4 * 112 + 3 * 6  # four slots of two frames


def test_a_video_that_cannot_be_read_again_costs_its_picture_alone(
    videos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = IsolatedViews.read

    def once(self: IsolatedViews, file: Path, how: dict[str, int], *rest: Any, **more: Any) -> Any:
        if how["segments"] == 1 and file.name == "c one.mp4":
            raise VideoError("missing", f"{file} does not exist")
        return read(self, file, how, *rest, **more)

    monkeypatch.setattr(IsolatedViews, "read", once)
    out = tmp_path / "answers.csv"
    result = command([str(videos)], str(model), out=str(out), pictures=str(tmp_path / "pictures"))
    assert (len(list(csv.DictReader(out.open()))), result["videos_ok"]) == (6, 4)
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert [record.message.rsplit("/", 1)[1] for record in caplog.records if "no picture" in record.message] == [
        "c one.mp4 does not exist"
    ]


def test_the_command_line_counts_prints_and_says_when_nothing_could_be_read(videos: Path, model: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(videos), "--model", str(model), "--segments", "1", "--json"])
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["predictions"]) == 4
    done = CliRunner().invoke(app, ["predict", str(videos / "b/broken.mp4"), "--model", str(model)])
    assert done.exit_code == 1
    assert "failed" in done.stdout
    assert "broken.mp4" in done.stdout


def test_wrong_input_is_refused_before_any_video_is_read(videos: Path, model: Path, tmp_path: Path) -> None:
    good = [str(videos / "a")]
    pretrained = tmp_path / "pretrained"
    network = timm.create_model("everest_pretrain_tiny_patch16_224", img_size=32, num_frames=8)
    info = ModelInfo(network.architecture, network.kwargs, "pretrain", None, None, None, Views(), Pixels(32, None))
    save_model(network, pretrained, info.as_dict())
    blocked = tmp_path / "file"
    blocked.touch()
    (folder := tmp_path / "folder.csv").mkdir()
    for arguments, message in (
        ((["/nowhere.mp4"], str(model)), r"/nowhere\.mp4 does not exist"),
        (([str(model)], str(model)), r"no video in .*\.mp4"),
        ((good, str(model), "answers.txt"), r"answers\.txt.*\.csv"),
        ((good, str(model), f"{blocked}/x.csv"), r"file.*Cure"),
        ((good, str(model), str(folder)), r"folder\.csv is a folder, where a file is to be written. Cure"),
        ((good, str(pretrained)), r"pre-training model.*fine-tuned"),
        ((good, str(tmp_path / "absent")), r"absent.*is no folder, no run"),
        ((good, str(videos)), r"holds no model\.safetensors"),
        ((good, "models:/x"), r"models:/NAME@ALIAS"),
        ((good, str(model), None, None, 0), r"batch = 0"),
    ):
        with pytest.raises(InputError, match=message):
            command(*arguments)  # type: ignore[arg-type]


def test_a_model_without_names_or_frame_step_says_how_to_add_them(videos: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    full = json.loads((model / "model.json").read_text())
    for change, message in (
        ({"classes": None}, r"names none of the model's 3 classes. Cure: `everest convert-checkpoint .* --classes"),
        ({"classes": ["a", "b"]}, "classes has 2 names, expected num_classes = 3"),
        ({"frame_step": None}, "names no frame_step.*--frame-step"),
    ):
        write_info(tmp_path / "m", {**full, **change})
        with pytest.raises(InputError, match=message):
            command([str(videos / "a")], str(tmp_path / "m"))
    assert command([str(videos / "a")], str(tmp_path / "m"), frame_step=2)["videos_ok"] == 1


def test_views_begin_where_the_evaluations_did_on_a_cache_of_every_few_frames(nowhere: Path) -> None:
    make(2, frames=30)
    settings = params(preprocess__frames="every", preprocess__keep_every=2, benchmarks__small__data__frame_step=2)
    preprocess.run(settings, "small")
    cache = Cache.open(layout.cache_dir("small"))
    how = {"frames": 8, "step": 2, "segments": 4, "crops": 1, "grid": cache.grid}
    with closing(IsolatedViews(Limits(60, 4 << 30), workers=1)) as reader:
        for row, name in enumerate(cache.ids):
            cached = video_views(partial(cache.frames, row), cache.num_frames(row), **how)
            assert np.array_equal(
                reader.read(layout.raw_dir("small") / f"{name}.mp4", how, Step(how["step"]), short_side=64), cached
            )


def test_broken_weights_or_descriptions_are_named(videos: Path, model: Path, tmp_path: Path) -> None:
    def broken(name: str, change: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(model, folder)
        change(folder)
        return str(folder)

    def pickled(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))

    def cut(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])

    def other(folder: Path) -> None:
        about = json.loads((folder / "model.json").read_text())
        about["kwargs"]["num_classes"], about["classes"] = 7, list("abcdefg")
        write_info(folder, about)

    def unknown(folder: Path) -> None:
        about = json.loads((folder / "model.json").read_text())
        write_info(folder, {**about, "architecture": "resnet999"})

    def renamed(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(path.read_text().replace("falls", "calls"))

    for change, message in (
        (pickled, r"pickled/model\.safetensors is not what was written"),
        (cut, r"cut/model\.safetensors is not what was written"),
        (renamed, r"renamed/model\.json is not what was written.*Cure"),
        (other, r"weights do not fit the model: head\.weight has shape"),
        (unknown, r"unknown: .*resnet999"),
    ):
        with pytest.raises(InputError, match=message):
            command([str(videos / "a")], broken(change.__name__, change))


class Mischief:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("executed").touch, ())


def test_a_model_that_comes_with_a_pickle_is_refused_unread(nowhere: Path, model: Path, videos: Path) -> None:
    shutil.copytree(model, "with-pickle")
    Path("with-pickle/model.pkl").write_bytes(pickle.dumps(Mischief()))
    with pytest.raises(InputError, match=r"with-pickle carries model\.pkl, which can run code"):
        command([str(videos)], "with-pickle")
    assert not Path("executed").exists()


def test_without_a_store_the_cure_is_said_and_none_is_made(nowhere: Path, videos: Path) -> None:
    for address in ("models:/demo@best", "0" * 32):
        with pytest.raises(InputError, match=r"no tracking store .*mlflow\.db.*project's root"):
            command([str(videos)], address)
    assert not list(nowhere.iterdir())


def test_registered_models_are_found_by_alias_version_and_run(
    nowhere: Path, tracking_store: str, monkeypatch: pytest.MonkeyPatch, model: Path, videos: Path
) -> None:
    from pipeline.tracking.store import Store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store)
    store = Store()
    run = store.create_run("predicting", "key", "evaluate", 0, {})
    tags = {"score": "0.5", "sha256": sha256(model)}
    assert store.models.register(run, "k1", model, "three-ways", tags, ["best", "candidate"]) == "1"
    plain = command([str(videos)], str(model))["predictions"]
    for address in ("models:/three-ways@best", "models:/three-ways/1", run):
        result = command([str(videos)], address)
        assert result["predictions"] == plain
        assert result["model"] == ".work/models/three-ways-1"
    with pytest.raises(InputError, match=r"alias 'bset'; there are: 1, @best \(1\), @candidate \(1\)\."):
        command([str(videos)], "models:/three-ways@bset")
    with pytest.raises(InputError, match=r"there are: none, the models are .*three-ways"):
        command([str(videos)], "models:/four-ways@best")
    with pytest.raises(InputError, match="registered no model"):
        command([str(videos)], "f" * 32)

    other = nowhere / "other"
    shutil.copytree(model, other)
    (other / "python_model.pkl").write_bytes(pickle.dumps(Mischief()))
    store.models.register(run, "k2", other, "three-ways", tags, [])
    with pytest.raises(InputError, match=r"version 2 of three-ways carries python_model\.pkl"):
        command([str(videos)], "models:/three-ways/2")
    assert not Path("executed").exists()

    (other / "python_model.pkl").unlink()
    store.models.register(run, "k3", other, "three-ways", {**tags, "sha256": "0" * 64}, [])
    with pytest.raises(EverestError, match=r"version 3 of three-ways are not those that were registered"):
        command([str(videos)], "models:/three-ways/3")
    assert sorted(path.name for path in Path(".work/models").iterdir()) == ["three-ways-1"]
