"""`pipeline.api`: the commands' functions from Python, typed, ready for tables, light to import."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sample_videos
import torch

from pipeline import api
from pipeline.data.video import open_video
from pipeline.errors import InputError
from tests.pipeline.inference.test_embed import save

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_its_import_loads_nothing_heavy(root: Path) -> None:
    code = "import sys; from pipeline import api; print(sorted({'torch', 'numpy', 'pyarrow', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_function_has_types_and_says_what_it_raises() -> None:
    for name in ("audit", "embed", "load", "predict"):
        function = getattr(api, name)
        signature = inspect.signature(function)
        assert signature.return_annotation not in (inspect.Signature.empty, "Any", "dict[str, Any]")
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
        assert "Raises:" in (function.__doc__ or "")


def test_results_become_tables(tmp_path: Path) -> None:
    for number in range(3):
        sample_videos.write(tmp_path / "set" / f"{number}.mp4", frames=40, seed=number)
    result = api.audit(tmp_path / "set", size="tiny")
    assert list(pd.DataFrame(result.findings.videos)["path"]) == [video.path for video in result.findings.videos]
    assert list(pd.DataFrame(result.findings.shares).columns)[:2] == ["change_kept", "tokens_dropped"]
    model = save(tmp_path / "model", "everest_tiny_patch16_224", "finetune", num_classes=3)
    answers = api.predict([tmp_path / "set"], str(model), device="cpu")
    assert dataclasses.is_dataclass(answers)
    frame = pd.DataFrame(answers.predictions)
    assert list(frame.columns) == ["video", "predicted", "class_name", "probability", "labels"]
    assert answers.probabilities.shape == (3, 3)
    np.testing.assert_allclose(answers.probabilities.max(1), frame["probability"], rtol=1e-6)
    assert (answers.videos_ok, answers.videos_total, answers.classes) == (3, 3, ("a", "b", "c"))


def test_a_loaded_model_says_what_predict_says(tmp_path: Path) -> None:
    video = sample_videos.write(tmp_path / "clip.mp4", frames=16)
    folder = save(tmp_path / "model", "everest_tiny_patch16_224", "finetune", num_classes=3)
    answers = api.predict([video], str(folder), segments=1, device="cpu")
    model = api.load(folder, device="cpu")
    with open_video(video) as reader:
        clip = model.pixels(reader.frames(range(0, 15, 2))[None])
    with torch.no_grad():
        probabilities = model.network(clip).softmax(1)
    np.testing.assert_allclose(probabilities.numpy(), answers.probabilities, atol=1e-6)
    assert not model.network.training
    assert model.info.classes == answers.classes


def test_a_loaded_model_is_a_backbone_of_which_every_token_can_be_asked(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "everest_pretrain_tiny_patch16_224", "pretrain", keep_ratio=0.5)
    model = api.load(folder, device="cpu")
    clip = model.pixels(np.zeros((1, 8, 40, 40, 3), np.uint8))
    maps: Any = model.network.forward_intermediates(clip, indices=2, intermediates_only=True)
    assert [tuple(one.shape) for one in maps] == [(1, 96, 4, 2, 2)] * 2
    model.network.feature_ratio = 1.0
    assert model.network.forward_features(clip).shape == (1, 16, 96)
    with pytest.raises(InputError, match="absent"):
        api.load(tmp_path / "absent")
    with pytest.raises(InputError, match="keep_ratio = 3"):
        api.load(save(tmp_path / "tuned", "everest_tiny_patch16_224", "finetune", num_classes=3), keep_ratio=3.0)
