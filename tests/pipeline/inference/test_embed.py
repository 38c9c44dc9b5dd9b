"""Features of videos as files: what they hold, what is computed again, neighbours, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_videos
import timm
import torch
from PIL import Image
from small_benchmark import make, params
from typer.testing import CliRunner

import models  # noqa: F401
from models.info import ModelInfo, Pixels, Views
from models.weights import load_model, save_model
from pipeline import api, layout
from pipeline.cli import app
from pipeline.data.ingest.process import Decoder
from pipeline.data.ingest.reading import open_accepted
from pipeline.data.pixels.normalise import model_pixels
from pipeline.data.sampling import view_clips
from pipeline.data.video import open_video, write_video
from pipeline.errors import BusyError, EverestError, InputError
from pipeline.inference import models as inference_models
from pipeline.inference.features import FeatureFile, read
from pipeline.inference.neighbours import nearest
from pipeline.model_folder import describe, sha256
from pipeline.params.write import write_params
from pipeline.system.locks import locked
from pipeline.system.sealed import write_table

pytestmark = pytest.mark.usefixtures("elsewhere")


def save(folder: Path, name: str, stage: str, **kwargs: Any) -> Path:
    torch.manual_seed(0)
    network = timm.create_model(name, img_size=32, num_frames=8, **kwargs)
    classes = ("a", "b", "c") if stage == "finetune" else None
    views = Views(2, 1, 1) if stage == "finetune" else Views()
    info = ModelInfo(name, network.kwargs, stage, "motion", classes, 2, views, Pixels(32, None))
    save_model(network, folder, info.as_dict())
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("models") / "pretrained",
        "everest_pretrain_tiny_patch16_224",
        "pretrain",
        keep_ratio=0.5,
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "classifier", "everest_tiny_patch16_224", "finetune", num_classes=3)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for number in range(4):
        sample_videos.write(folder / f"{number}.mp4", frames=40, seed=number)
    (folder / "empty.mp4").touch()
    return folder


def by_hand(folder: Path, video: Path, clips: int) -> torch.Tensor:
    """Normalised clips of one video as the model is tested on them."""
    with open_video(video) as reader:
        numbers = view_clips(reader.num_frames, 8, 2, clips, 1)
        frames = np.stack([reader.frames(one) for one in numbers])
    return model_pixels(torch.from_numpy(frames), 32, "cpu")


def test_features_of_a_head_that_keeps_places_have_its_width(videos: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "places", "everest_tiny_patch16_224", "finetune", num_classes=3, head="places")
    features = api.embed([videos], str(folder), out="f.parquet", device="cpu").features()
    assert features.values.shape == (8, 4 * 9 * 96)
    network: Any = load_model(folder).eval()
    with torch.no_grad():
        expected = network(by_hand(folder, videos / "2.mp4", 2))
        assert torch.allclose(network.head(torch.from_numpy(features.values[4:6].copy())), expected, atol=1e-5)


def test_a_row_holds_what_the_classifiers_head_sees_and_the_clips_place(videos: Path, classifier: Path) -> None:
    embedding = api.embed([videos], str(classifier), out="f.parquet", device="cpu")
    assert (embedding.videos_ok, embedding.videos_total, embedding.clips, embedding.computed) == (4, 5, 8, 4)
    assert [(Path(one.video).name, "empty" in one.reason) for one in embedding.failed] == [("empty.mp4", True)]
    features = embedding.features()
    network: Any = load_model(classifier).eval()
    with torch.no_grad():
        clips = by_hand(classifier, videos / "2.mp4", 2)
        expected = network.forward_head(network.forward_features(clips), pre_logits=True)
        assert torch.allclose(network.head(torch.from_numpy(features.values[4:6].copy())), network(clips), atol=1e-5)
    np.testing.assert_allclose(features.values[4:6], expected.numpy(), atol=1e-5)
    table = features.table.to_pandas()
    assert table["video"].iloc[4] == str(videos / "2.mp4")
    assert table["clip"].tolist() == [0, 1] * 4
    assert table["first_frame"].tolist() == [0, 25] * 4
    assert table["last_frame"].tolist() == [14, 39] * 4
    assert table["start_seconds"].tolist() == [0.0, 1.0] * 4
    assert table["end_seconds"].iloc[1] == pytest.approx(40 / 25)
    assert features.about["model_sha256"] == sha256(classifier)


def test_pooled_features_of_a_pre_training_model_are_the_mean_of_its_tokens(videos: Path, pretrained: Path) -> None:
    embedding = api.embed([videos / "0.mp4"], str(pretrained), out="f.npz", device="cpu")
    features = embedding.features()
    assert features.values.shape == (1, 96)
    assert features.about["keep_ratio"] == 0.6  # what its strategy keeps in fine-tuning
    network: Any = load_model(pretrained).eval()
    with torch.no_grad():
        expected = network.forward_features(by_hand(pretrained, videos / "0.mp4", 1)).mean(1)
    np.testing.assert_allclose(features.values, expected.numpy(), atol=1e-5)


def test_slots_and_tokens_agree_with_the_pooled_features(videos: Path, pretrained: Path) -> None:
    rows = {
        pool: api.embed([videos], str(pretrained), out=f"{pool}.parquet", pool=pool, device="cpu").features()  # type: ignore[arg-type]
        for pool in ("clip", "slots", "tokens")
    }
    assert rows["slots"].values.shape == (4, 4, 96)
    assert rows["tokens"].values.shape == (4, 16, 96)
    kept = np.array(rows["tokens"].table["kept"].to_pylist())
    assert kept.sum(1).tolist() == [9] * 4  # 0.6 of 16
    assert (np.abs(rows["tokens"].values).sum(2) > 0).tolist() == kept.tolist()
    np.testing.assert_allclose(rows["tokens"].values.sum(1) / 9, rows["clip"].values, atol=1e-5)
    counts = kept.reshape(4, 4, 4).sum(2)[..., None]
    np.testing.assert_allclose((rows["slots"].values * counts).sum(1) / 9, rows["clip"].values, atol=1e-5)


def test_all_tokens_can_be_asked_for(videos: Path, pretrained: Path) -> None:
    embedding = api.embed([videos], str(pretrained), out="f.parquet", pool="tokens", keep=1.0, device="cpu")
    assert np.array(embedding.features().table["kept"].to_pylist()).all()
    assert embedding.about["keep_ratio"] == 1.0


@pytest.mark.parametrize("name", ["f.parquet", "f.npz"])
def test_only_what_is_new_is_computed(videos: Path, pretrained: Path, name: str) -> None:
    first = api.embed([videos], str(pretrained), out=name, device="cpu")
    before = first.features()
    assert api.embed([videos], str(pretrained), out=name, device="cpu").computed == 0
    sample_videos.write(videos / "9.mp4", frames=40, seed=9)
    sample_videos.write(videos / "1.mp4", frames=40, seed=11)
    (videos / "0.mp4").unlink()
    again = api.embed([videos], str(pretrained), out=name, device="cpu")
    assert (again.computed, again.videos_ok, again.clips) == (2, 4, 4)
    after = again.features()
    names = [Path(video).name for video in after.column("video")]
    assert names == ["2.mp4", "3.mp4", "1.mp4", "9.mp4"]  # what was there first, then what was computed
    np.testing.assert_array_equal(after.values[:2], before.values[2:4])
    assert [path.name for path in Path().glob(".*")] == [f".{name}.lock"], "no part is left"


def test_features_made_otherwise_are_not_written_over(videos: Path, pretrained: Path, classifier: Path) -> None:
    api.embed([videos / "0.mp4"], str(pretrained), out="f.parquet", device="cpu")
    before = Path("f.parquet").read_bytes()
    with pytest.raises(
        InputError, match=r"f.parquet holds features that were made otherwise: model_sha256 .*Cure: name"
    ):
        api.embed([videos / "0.mp4"], str(classifier), out="f.parquet", device="cpu")
    with pytest.raises(InputError, match="frame_step 2, now 3"):
        api.embed([videos / "0.mp4"], str(pretrained), out="f.parquet", frame_step=3, device="cpu")
    assert Path("f.parquet").read_bytes() == before


def test_a_model_that_is_replaced_while_it_is_read_gives_no_features_under_the_new_ones_hash(
    videos: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = shutil.copytree(pretrained, tmp_path / "model"), inference_models.load_any

    def replaced(model: str) -> Any:
        found = loaded(model)
        save_model(
            timm.create_model(**{"model_name": found[1].architecture, **found[1].kwargs}), folder, found[1].as_dict()
        )
        return found

    monkeypatch.setattr(inference_models, "load_any", replaced)
    with pytest.raises(EverestError, match="model was replaced while it was read. Cure: the same command again"):
        api.embed([videos / "0.mp4"], str(folder), out="f.parquet", device="cpu")
    assert not Path("f.parquet").exists()


def test_what_an_audit_has_measured_is_not_measured_again(
    videos: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.embed([videos], str(pretrained), out="first.parquet", device="cpu").features()
    api.audit(videos, size="tiny")
    opened: dict[str, Any] = {}
    ask = Decoder.ask

    def noted(self: Decoder, due: float, function: Any, *arguments: Any) -> Any:
        if function is open_accepted:
            opened[Path(arguments[0]).name] = arguments[4]
        return ask(self, due, function, *arguments)

    monkeypatch.setattr(Decoder, "ask", noted)
    again = api.embed([videos], str(pretrained), out="again.parquet", device="cpu").features()
    np.testing.assert_array_equal(again.values, first.values)
    assert {name for name, known in opened.items() if known} == {f"{number}.mp4" for number in range(4)}


def test_ctrl_c_keeps_what_is_computed(tmp_path: Path, root: Path, pretrained: Path) -> None:
    folder = tmp_path / "many"
    for number in range(60):
        sample_videos.write(folder / f"{number:02d}.mp4", frames=40, seed=number)
    code = (
        "import sys, time; from pipeline.inference import embed, pooling; embed.FLUSH_SECONDS = 0\n"
        "features = pooling.features\n"
        "pooling.features = lambda *of: (time.sleep(0.1), features(*of))[1]\n"  # so that much is left to do
        "sys.argv = ['everest', 'embed', sys.argv[1], '--model', sys.argv[2], '--out', 'f.parquet', '--batch', '2']\n"
        "from pipeline.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(folder), str(pretrained)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    until = time.monotonic() + 120
    while len(list(Path().glob(".f.parquet.parts/*/1-*.parquet"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"of 60 videos are embedded and kept; the same command goes on from there." in errors
    embedding = api.embed([folder], str(pretrained), out="f.parquet", device="cpu")
    assert 0 < embedding.computed < 60
    assert (embedding.videos_ok, embedding.clips) == (60, 60)
    assert len(set(embedding.features().column("video"))) == 60


def test_copies_are_the_nearest_and_a_picture_shows_them(tmp_path: Path, pretrained: Path) -> None:
    folder = tmp_path / "set"
    for number in range(5):
        write_video(folder / f"{number}.mp4", sample_videos.moving(40, 96, 96, seed=number))
    write_video(folder / "copy of 3.mkv", sample_videos.moving(40, 96, 96, seed=3), crf=35)
    embedding = api.embed(
        [folder], str(pretrained), out="f.parquet", near=folder / "3.mp4", top=3, picture="n.png", device="cpu"
    )
    assert embedding.neighbours is not None
    rows = pd.DataFrame(embedding.neighbours.nearest)
    assert Path(rows["video"][0]).name == "copy of 3.mkv"
    assert len(rows) == 3
    assert rows["similarity"][0] > 0.8 > rows["similarity"][1]
    with Image.open("n.png") as picture:
        assert picture.size == (40 + 8 * 118 - 6, 40 + 4 * 146)
    # A video that is not among them, too.
    outside = write_video(tmp_path / "outside.mp4", sample_videos.moving(40, 96, 96, seed=2))
    del outside
    embedding = api.embed(
        [folder], str(pretrained), out="f.parquet", near=tmp_path / "outside.mp4", picture="n.png", device="cpu"
    )
    assert embedding.neighbours is not None
    assert Path(embedding.neighbours.nearest[0].video).name == "2.mp4"
    assert embedding.neighbours.nearest[0].similarity == pytest.approx(1, abs=1e-3)


def test_neighbours_are_by_the_mean_of_a_videos_clips_around_the_mean_of_all() -> None:
    order, similarity = nearest(np.array([2.0, 1.0]), np.array([[2.0, 1.0], [0.0, 1.0], [2.0, 3.0], [0.0, 3.0]]))
    assert order[0] == 0
    assert similarity.tolist() == pytest.approx([1.0, 0.0, 0.0, -1.0])


def test_a_benchmark_of_the_params_is_embedded_with_its_labels(pretrained: Path) -> None:
    make(8)
    write_params(Path("params.yaml"), params(clip__source="videos", pretrain__frame_selection__mode="none"))
    embedding = api.embed(["small"], str(pretrained), out="f.parquet", device="cpu")
    features = embedding.features()
    table = features.table.to_pandas()
    assert (embedding.videos_ok, embedding.videos_total) == (8, 8)
    assert table["video"].tolist() == [f"v{number:03d}" for number in range(8)]
    assert table["label"].tolist() == [str(number) for number in range(8)]
    assert table["split"].tolist() == ["train", "train", "train", "test"] * 2
    assert (table["content"].str.len() == 64).all()  # the manifest's SHA-256
    # A label, and a place in a split, that were corrected since: nothing is computed again.
    path = layout.manifest_dir("small") / "manifest.parquet"
    rows = pq.read_table(path)
    for name in ("label_name", "split"):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(rows[name].to_pylist()[::-1]))
    write_table(rows.replace_schema_metadata(None), path)
    again = api.embed(["small"], str(pretrained), out="f.parquet", device="cpu")
    assert again.computed == 0
    assert again.features().column("label") == table["label"].tolist()[::-1]
    assert again.features().column("split") == table["split"].tolist()[::-1]
    # The same pixels, and so the same features, as from the files themselves.
    from_files = api.embed([layout.raw_dir("small")], str(pretrained), out="g.parquet", device="cpu").features()
    np.testing.assert_allclose(features.values, from_files.values, atol=1e-5)


def test_features_of_a_benchmark_say_where_its_frames_are_from_and_fit_the_model(
    tmp_path: Path, pretrained: Path
) -> None:
    make(4)
    write_params(Path("params.yaml"), params(clip__source="videos", pretrain__frame_selection__mode="none"))
    about = api.embed(["small"], str(pretrained), out="f.parquet", device="cpu").about
    assert about["source"] == {"kept_in": "videos", "grid": 1, "short_side": 64}
    assert about["short_side"] == 64
    write_params(
        Path("params.yaml"),
        params(clip__source="videos", pretrain__frame_selection__mode="none", preprocess__short_side=48),
    )
    with pytest.raises(InputError, match="made otherwise: short_side 64, now 48; source"):
        api.embed(["small"], str(pretrained), out="f.parquet", device="cpu")
    info = dataclasses.replace(describe(pretrained), pixels=Pixels(32, 64))
    save_model(load_model(pretrained), tmp_path / "wide", info.as_dict())
    with pytest.raises(InputError, match=r"short_side = 64, expected 48 of the videos of small. Cure: preprocess"):
        api.embed(["small"], str(tmp_path / "wide"), out="g.parquet", device="cpu")


def test_a_video_of_a_benchmark_is_not_its_own_neighbour(pretrained: Path) -> None:
    make(4)
    write_params(Path("params.yaml"), params(clip__source="videos", pretrain__frame_selection__mode="none"))
    file = sorted(layout.raw_dir("small").rglob("*.mp4"))[0]
    found = api.embed(["small"], str(pretrained), out="f.parquet", near=file, picture="n.png", device="cpu").neighbours
    assert found is not None
    assert sorted(one.video for one in found.nearest) == ["v001", "v002", "v003"]


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (["0.mp4"], {"pool": "mean"}, "pool = 'mean', expected one of clip, slots, tokens"),
        (["0.mp4"], {"batch": 0}, "batch = 0: expected at least 1"),
        (["0.mp4"], {"keep": 1.5}, "keep = 1.5: expected above 0 and at most 1"),
        (["0.mp4"], {"out": "f.csv"}, "its suffix must be one of .parquet, .npz"),
        (["0.mp4"], {"out": "/proc/f/f.npz"}, "/proc/f: .*Cure: name a folder that can be written to"),
        (["0.mp4"], {"out": "folder.npz"}, "folder.npz is a folder, where a file is to be written. Cure: name a file"),
        (["0.mp4", "1.mp4"], {"near": "0.mp4", "picture": "folder.npz"}, "folder.npz is a folder, where a file"),
        (["0.mp4"], {"near": "absent.mp4"}, "absent.mp4 does not exist"),
        (["0.mp4"], {"near": "0.mp4", "pool": "slots"}, "neighbours are those of pooled features"),
        (["0.mp4"], {"near": "0.mp4"}, "0.mp4 is the only video that was embedded"),
        (["0.mp4"], {"out": "text.parquet"}, r"text.parquet holds no features of this project"),
        (["absent"], {}, "absent does not exist. Cure: name a video or a folder"),
        (["folder"], {}, "no video in folder. Cure: files that end in"),
    ],
)
def test_bad_input_is_one_line_with_its_cure(
    videos: Path,
    pretrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    options: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.chdir(videos)
    Path("folder").mkdir()
    Path("folder.npz").mkdir()
    Path("text.parquet").write_text("text")
    with pytest.raises(InputError, match=says) as caught:
        api.embed(names, str(pretrained), **{"out": "f.parquet", "device": "cpu", **options})
    assert "\n" not in str(caught.value)


def test_a_model_that_keeps_all_tokens_has_no_share_to_be_set(tmp_path: Path, videos: Path) -> None:
    folder = save(tmp_path / "tube", "everest_pretrain_tiny_patch16_224", "pretrain", strategy="tube")
    with pytest.raises(InputError, match="strategy 'tube' keeps all tokens. Cure: leave --keep out"):
        api.embed([videos], str(folder), keep=0.5, device="cpu")
    embedding = api.embed([videos], str(folder), pool="tokens", out="f.parquet", device="cpu")
    assert np.array(embedding.features().table["kept"].to_pylist()).all()


def test_a_set_without_one_good_video_writes_nothing_and_fails(videos: Path, pretrained: Path) -> None:
    command = ["embed", str(videos / "empty.mp4"), "--model", str(pretrained), "--out", "f.parquet", "--json"]
    run = CliRunner().invoke(app, command, catch_exceptions=False)
    assert run.exit_code == 1
    assert json.loads(run.output)["failed"][0]["video"].endswith("empty.mp4")
    assert not Path("f.parquet").exists()


def test_a_file_without_a_suffix_is_read_where_it_is_named(videos: Path, pretrained: Path) -> None:
    (videos / "0.mp4").rename(videos / "clip")
    assert api.embed([videos / "clip"], str(pretrained), out="f.parquet", device="cpu").videos_ok == 1


def test_the_command_names_a_file_for_each_set_and_model(videos: Path, pretrained: Path) -> None:
    for names, rows in (([str(videos)], 4), ([str(videos / "0.mp4")], 1)):
        run = CliRunner().invoke(app, ["embed", *names, "--model", str(pretrained)], catch_exceptions=False)
        assert run.exit_code == 0
        called = f"{Path(names[0]).stem}-{layout.fingerprint(names)[:6]}"
        target = Path("outputs/embed") / f"{called}-{sha256(pretrained)[:12]}-clip.parquet"
        assert str(target) in run.output
        assert pq.read_table(target).num_rows == rows


def test_features_of_other_videos_alone_are_not_written_over(videos: Path, pretrained: Path) -> None:
    api.embed([videos / "0.mp4"], str(pretrained), out="f.parquet", device="cpu")
    before = Path("f.parquet").read_bytes()
    with pytest.raises(InputError, match=r"f.parquet holds features of other videos \(1, for example .*0.mp4\)"):
        api.embed([videos / "1.mp4"], str(pretrained), out="f.parquet", device="cpu")
    assert Path("f.parquet").read_bytes() == before
    # With one of them among the videos it is that set with others.
    assert api.embed([videos / "0.mp4", videos / "1.mp4"], str(pretrained), out="f.parquet", device="cpu").computed == 1


def test_parts_of_other_videos_are_named_where_they_lie_and_a_file_is_written_by_one_call_at_a_time(
    videos: Path, pretrained: Path
) -> None:
    api.embed([videos / "0.mp4"], str(pretrained), out="f.parquet", device="cpu")
    name = "f.parquet"
    FeatureFile(Path(name), read(Path(name)).about)  # makes the folder of the parts
    (parts,) = Path(".f.parquet.parts").iterdir()
    Path(name).rename(parts / "1-000000.parquet")  # as an interrupted call leaves it
    with pytest.raises(
        InputError, match=r"^\.f\.parquet\.parts holds features of other .* or remove \.f\.parquet\.parts"
    ):
        api.embed([videos / "1.mp4"], str(pretrained), out=name, device="cpu")
    with locked(Path(".f.parquet.lock"), "a test"), pytest.raises(BusyError, match=r"^f\.parquet is in use by another"):
        api.embed([videos / "0.mp4"], str(pretrained), out=name, device="cpu")


def test_neighbours_without_labels_have_no_column_for_them(videos: Path, pretrained: Path) -> None:
    command = ["embed", str(videos), "--model", str(pretrained), "--near", str(videos / "0.mp4"), "--picture", "n.png"]
    run = CliRunner().invoke(app, command, catch_exceptions=False)
    heads = [line.split() for line in run.output.splitlines() if "similarity" in line]
    assert heads == [["video", "similarity"]]


def test_a_share_of_tokens_that_is_asked_for_holds_where_each_clip_had_a_budget_of_its_own(
    videos: Path, tmp_path: Path
) -> None:
    name = "everest_tiny_patch16_224"
    model = save(tmp_path / "adaptive", name, "finetune", num_classes=3, score_share=0.6)
    kept = {}
    for keep in (None, 0.25, 1.0):
        embedding = api.embed([videos], str(model), out=f"{keep}.parquet", pool="tokens", keep=keep, device="cpu")
        kept[keep] = np.array(embedding.features().table["kept"].to_pylist()).mean()
    assert (kept[0.25], kept[1.0]) == (0.25, 1.0)
    assert kept[None] not in (0.25, 1.0)
