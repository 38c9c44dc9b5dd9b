"""What `everest show` writes: real videos in, pictures out, and what each part of them means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sample_videos
import timm
import torch
from PIL import Image, ImageSequence

from models.info import ModelInfo, Pixels, Views
from models.weights import save_model
from pipeline.data.frame_step import Step
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.video import write_video
from pipeline.errors import InputError
from pipeline.pictures.draw import draw_grid, summary
from pipeline.pictures.look import look, picture_of, read_window, show
from tests.pipeline.data.ingest.test_ingest import BAD_AV


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """60 frames of 96x80: a bright square moves over a still texture for the first second, then all is still."""
    texture = np.random.default_rng(0).integers(60, 110, (80, 96, 3), dtype=np.uint8)
    frames = np.repeat(texture[None], 60, axis=0)
    for t in range(60):
        x = 16 + min(t, 25)
        frames[t, 30:54, x : x + 24] = 230
    write_video(tmp_path / "moving square.mp4", frames, fps=25, crf=1)  # coarser coding makes still parts flicker
    return tmp_path / "moving square.mp4"


def test_without_a_model_pictures_show_the_selection(video: Path, tmp_path: Path) -> None:
    written = show(video, None, tmp_path / "out", resolution=64, frame_step=1)
    assert [path.name for path in written] == ["moving square.png", "moving square.gif"]
    grid, animation = (Image.open(path) for path in written)
    assert grid.width > 1300
    durations = [ImageSequence.Iterator(animation)[i].info["duration"] for i in range(animation.n_frames)]
    assert sum(durations) == 16 * 160  # equal neighbours are stored once, shown longer
    assert animation.width > 4 * 200
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "moving square.gif",
        "moving square.png",
    ]


def test_a_pretrained_model_adds_the_reconstruction_and_a_classifier_only_what_it_keeps(
    video: Path, tmp_path: Path
) -> None:
    ratios = {"img_size": 64, "keep_ratio": 0.5, "visible_ratio": 0.2}
    for name, stage, network in (
        ("pre", "pretrain", timm.create_model("everest_pretrain_tiny_patch16_224", **ratios)),
        ("cls", "finetune", timm.create_model("everest_tiny_patch16_224", img_size=64)),
    ):
        info = ModelInfo(network.architecture, network.kwargs, stage, None, None, 4, Views(), Pixels(64, None))
        save_model(network, tmp_path / name, info.as_dict())
    heights = {}
    for name, folder in (("none", None), ("pre", tmp_path / "pre"), ("cls", tmp_path / "cls")):
        path = show(video, folder, tmp_path / name, resolution=64, animation="none")[0]
        heights[name] = Image.open(path).height
    row = heights["pre"] - heights["none"]
    assert row > 100
    assert heights["cls"] == heights["none"] - row
    save_model(network, tmp_path / "old", {"frame_step": 4})
    with pytest.raises(InputError, match=r"old/model\.json: version 1.*Cure"):
        show(video, tmp_path / "old", tmp_path / "out")


def test_moving_slots_and_tokens_are_the_ones_kept(video: Path) -> None:
    with IsolatedFrames.by_params() as reader:
        clip, times = read_window(reader, video, 24, Step(2), 0.0, 64)
    assert times == pytest.approx([2 * i / 25 for i in range(24)])
    result = look(None, clip, 8, torch.Generator().manual_seed(0))
    assert result.counts_A is not None
    assert result.slots_S is not None
    assert result.shown_N is not None
    assert int(result.counts_A[:6].sum()) > 3 * int(result.counts_A[7:].sum())
    kept = result.kept_N.view(8, 4, 4)
    assert kept[:, 1:3].sum() > 3 * kept[:, [0, 3]].sum() * 0.9
    assert not (result.shown_N & ~result.kept_N).any()
    assert summary(result).startswith("128 tokens  ·  38 kept (30%)  ·  12 shown to the encoder")
    assert draw_grid(result, "title").mode == "RGB"


def test_pixels_survive_the_way_into_a_look(video: Path) -> None:
    with IsolatedFrames.by_params() as reader:
        clip, _ = read_window(reader, video, 16, Step(1), 0.0, 64)
    result = look(None, clip, None, torch.Generator().manual_seed(0))
    assert result.pixels_TCHW.shape == (16, 3, 64, 64)
    assert result.pixels_TCHW[0, :, 28:40, 10:22].mean() == pytest.approx(230 / 255, abs=0.05)


def test_a_video_shorter_than_the_window_shrinks_the_step(video: Path) -> None:
    with IsolatedFrames.by_params() as reader:
        _, times = read_window(reader, video, 24, Step(30), None, 64)
    assert times[0] == 0
    assert times[-1] == pytest.approx(59 / 25)


def test_the_picture_of_training_leaves_the_model_training(tmp_path: Path) -> None:
    model = timm.create_model(
        "everest_pretrain_tiny_patch16_224", img_size=64, keep_ratio=0.5, visible_ratio=0.2
    ).train()
    written = picture_of(model, torch.randn(3, 16, 64, 64), tmp_path / "pictures" / "epoch-3", "epoch 3")
    assert model.training
    assert [path.name for path in written] == ["epoch-3.png", "epoch-3.gif"]


def test_equal_seeds_give_equal_bytes(video: Path, tmp_path: Path) -> None:
    one, two = (show(video, None, tmp_path / n, resolution=64, animation="none")[0] for n in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_bad_inputs_are_refused_with_a_cure(video: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^[^ ]*none\.mp4 does not exist\. Cure"):
        show(tmp_path / "none.mp4", None, tmp_path)
    (tmp_path / "text.mp4").write_text("no video at all " * 100)
    with pytest.raises(InputError, match=r"text\.mp4: .*Cure: a video that plays"):
        show(tmp_path / "text.mp4", None, tmp_path)
    with pytest.raises(InputError, match=r"start = 99 s lies outside.*2\.4 s.*Cure"):
        show(video, None, tmp_path, start=99)
    with pytest.raises(InputError, match=r"model\.json does not exist.*Cure"):
        show(video, tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"60x60 pixels do not divide.*Cure"):
        show(video, None, tmp_path, resolution=60)


def test_a_video_is_never_replaced_by_its_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (96, 96), (t, 2 * t, 90)) for t in range(30)]
    clip, other = tmp_path / "clip.gif", tmp_path / "other"
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=40)
    before = clip.read_bytes()
    other.mkdir()
    (other / "clip.gif").symlink_to(clip)
    for out in (tmp_path, other):
        with pytest.raises(InputError, match=r"clip\.gif itself, which its picture would replace\. Cure: .*--out"):
            show(clip, None, out, resolution=64)
    assert clip.read_bytes() == before
    assert [path.name for path in show(clip, None, tmp_path, resolution=64, animation="none")] == ["clip.png"]


def test_a_decoder_that_hangs_or_crashes_ends_show_with_the_words_of_ingest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before/av.py").write_text(BAD_AV)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "before"))
    text = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("deadline_seconds: 60.0", "deadline_seconds: 8.0"))
    monkeypatch.chdir(tmp_path)
    for name in ("spin.mp4", "crash.mp4"):
        sample_videos.write(tmp_path / name)
    with pytest.raises(InputError, match=r"spin\.mp4: not decoded within ingest\.deadline_seconds = 8.*Cure"):
        show(Path("spin.mp4"), None, Path("pictures"), resolution=64, animation="none")
    # As ingest does, another decoder reads what the first one falls over.
    assert show(Path("crash.mp4"), None, Path("pictures"), resolution=64, animation="none")[0].is_file()


def test_a_start_that_is_no_time_is_refused(video: Path, tmp_path: Path) -> None:
    for start in (float("inf"), float("nan"), -1.0):
        with pytest.raises(InputError, match=rf"start = {start} s lies outside.*Cure"):
            show(video, None, tmp_path, resolution=64, start=start)


def test_real_clips_are_shown(shared_dir: Path, tmp_path: Path) -> None:
    path = show(shared_dir / "clips/mmaction2/demo.mp4", None, tmp_path, animation="webp")[1]
    assert Image.open(path).n_frames == 16
