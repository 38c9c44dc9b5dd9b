"""The same frames are the same pixels in validation, test, prediction and pictures, from a cache and from a video."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_benchmark
import torch
from predictions import command
from torch import nn

from models.info import ModelInfo, Pixels, Views
from pipeline import layout
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import labelled_clips, open_source
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.frame_step import Step
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.pixels.normalise import denormalise, model_pixels, normalise
from pipeline.data.pixels.transforms import EvalTransform
from pipeline.data.sampling import centre_clip
from pipeline.data.video.shrink import shrink
from pipeline.evaluation.benchmark import TestSet, reader
from pipeline.evaluation.inference import infer
from pipeline.pictures.look import read_window
from pipeline.stages import preprocess

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[4]
#: Wider, higher, odd and larger than the cache keeps.
SIZES = ((64, 64), (64, 96), (90, 64), (128, 176))


class Recorder(nn.Module):
    """Keeps what it is given; each clip's class is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.clips: list[torch.Tensor] = []

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        self.clips += list(clip)
        return torch.zeros(len(clip), 8)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Four videos of unlike sizes in a raw cache; one view a video, of the resolution 48."""
    monkeypatch.chdir(tmp_path)
    small_benchmark.make(4, sizes=SIZES, splits=("test",))
    params = small_benchmark.params(
        clip__resolution=48,
        preprocess__store="raw",
        evaluate__segments=1,
        evaluate__crops=1,
        benchmarks__small__data__frame_step=1,
    )
    preprocess.run(params, "small")
    return params


def validation(params: Any) -> torch.Tensor:
    """What the validation of fine-tuning gives its model."""
    dataset = labelled_clips(params, "small", "test", random=False)
    loader = ClipLoader(dataset, seed=0, global_batch=4, workers=1, shuffle=False, drop_last=False)
    return torch.cat([EvalTransform(48)(batch, CPU)[0] for batch in loader.epoch(0)])


def evaluated(params: Any) -> torch.Tensor:
    """What the test gives its model."""
    tests = TestSet.load("small")
    model = Recorder()
    infer(model, reader(params, "small", tests), len(tests.ids), views=1, resolution=48, batch=3, device=CPU)
    return torch.stack(model.clips)


def predicted(params: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What `everest predict` gives its model."""
    model = Recorder()
    kwargs = {"num_frames": 8, "img_size": 48, "num_classes": 8, "strategy": "none"}
    names = tuple(str(number) for number in range(8))
    pixels = Pixels(48, params.preprocess.short_side)
    info = ModelInfo("everest_tiny_patch16_224", kwargs, "finetune", "small", names, 1, Views(), pixels)
    monkeypatch.setattr("pipeline.inference.models.load", lambda _: (Path("model"), info, model))
    command([str(layout.raw_dir("small"))], "model", device="cpu")
    return torch.stack(model.clips)


def test_validation_test_prediction_and_pictures_see_the_same_pixels_to_the_bit(
    params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = validation(params)
    assert expected.shape == (4, 3, 8, 48, 48)
    assert torch.equal(evaluated(params), expected)
    assert torch.equal(predicted(params, monkeypatch), expected)
    for number, clip in enumerate(expected):
        video = layout.raw_dir("small") / f"v{number:03d}.mp4"
        # The window of a picture begins where it is told to; frames 6 to 13 are the middle of 20.
        start = centre_clip(20, 8, 1)[0] / 12
        with IsolatedFrames.by_params() as reader:
            window, _ = read_window(reader, video, 8, Step(1), start, 48, params.preprocess.short_side)
        assert torch.equal(window[0], clip)


def test_a_video_gives_the_pixels_of_its_cache(params: Any) -> None:
    cached = evaluated(params)
    straight = params.model_copy(update={"clip": params.clip.model_copy(update={"source": "videos"})})
    assert torch.equal(evaluated(straight), cached)
    assert torch.equal(validation(straight), cached)


def test_a_clip_has_the_same_pixels_in_any_batch_and_padding() -> None:
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (3, 2, 80, 120, 3), dtype=np.uint8))
    sizes = torch.tensor([[80, 120], [64, 99], [50, 41]])
    together = model_pixels(clips, 32, CPU, sizes)
    for row, (height, width) in enumerate(sizes.tolist()):
        alone = model_pixels(clips[row : row + 1, :, :height, :width], 32, CPU)
        assert torch.equal(alone[0], together[row])


def test_a_cached_frame_is_the_shrunk_frame_of_its_video(params: Any) -> None:
    cache = Cache.open(layout.cache_dir("small"))
    source = open_source(
        params.model_copy(update={"clip": params.clip.model_copy(update={"source": "videos"})}), "small"
    )
    for row in range(4):
        assert np.array_equal(cache.frames(row, [0, 7, 19]), source.frames(row, [0, 7, 19]))


def test_normalising_and_back_gives_the_pixels() -> None:
    clip = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(1, 2, 16, 16, 3)
    back = denormalise(normalise(clip)) * 255
    assert torch.equal(back.round().to(torch.uint8).permute(0, 2, 3, 4, 1), clip)


def test_nothing_but_the_pixels_package_resizes_or_normalises_what_a_model_takes() -> None:
    others = []
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]):
        if "pixels" in path.parts or "bench" in path.parts:
            continue  # a benchmark times the usual way beside ours
        names = {node.attr if isinstance(node, ast.Attribute) else node.id
                 for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Attribute | ast.Name)}  # fmt: skip
        if names & {"interpolate", "IMAGENET_MEAN", "IMAGENET_STD"}:
            others.append(str(path.relative_to(ROOT)))
    assert others == []


def test_shrinking_keeps_what_is_small_enough() -> None:
    frames = np.zeros((2, 40, 60, 3), np.uint8)
    assert shrink(frames, 40) is frames
    assert shrink(frames, 20).shape == (2, 20, 30, 3)
