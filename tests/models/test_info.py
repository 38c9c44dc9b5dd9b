"""The record of a model: what it must hold, and which contradictions are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from models.info import ModelInfo, Pixels, Views, known_fields

KWARGS = {"img_size": 64, "num_frames": 8, "num_classes": 2, "strategy": "everest", "keep_ratio": 0.5}
INFO = ModelInfo(
    "everest_tiny_patch16_224", KWARGS, "finetune", "mine", ("jump", "run"), 4, Views(5, 3, 2), Pixels(64, 96)
)
PRETRAINED = ModelInfo(
    "everest_pretrain_tiny_patch16_224",
    {"img_size": 64, "num_frames": 8, "strategy": "tube", "visible_ratio": 0.1},
    "pretrain",
    ("mine", "other"),
    None,
    {"mine": 4, "other": 1},
    Views(),
    Pixels(64, 96),
)


def read(**changes: Any) -> ModelInfo:
    """The record as model.json holds it, changed, read again."""
    return ModelInfo.parse(json.loads(json.dumps({**INFO.as_dict(), **changes})), "m/model.json")


@pytest.mark.parametrize("info", [INFO, PRETRAINED])
def test_a_record_comes_back_as_it_was_written(info: ModelInfo) -> None:
    assert ModelInfo.parse(json.loads(json.dumps(info.as_dict())), "here") == info


def test_entries_of_others_are_kept() -> None:
    assert read(weights_hash="ab").as_dict()["weights_hash"] == "ab"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["jump"]}, "classes has 1 names, expected num_classes = 2"),
        ({"classes": ["jump", "run", "climb"]}, "classes has 3 names, expected num_classes = 2"),
        ({"classes": ["jump", "jump"]}, "names 'jump' more than once"),
        ({"classes": ["jump", 7]}, "expected a list of names"),
        ({"classes": "jump"}, "expected a list of names"),
        ({"stage": "evaluate"}, "stage = 'evaluate'"),
        ({"frame_step": 0}, "frame_step = 0"),
        ({"frame_step": 2.5}, r"frame_step = 2\.5"),
        ({"frame_step": {"mine": 4}}, "frame_step = "),
        ({"views": {"segments": 0, "crops": 1, "grid": 1}}, r"views\.segments = 0"),
        ({"views": {"clips": 3}}, "views or pixels have other entries"),
        ({"views": None}, "views or pixels have other entries"),
        ({"pixels": {"resolution": 64, "short_side": 64}}, "views or pixels have other entries"),
        ({"pixels": {**INFO.as_dict()["pixels"], "mean": [0.5, 0.5, 0.5]}}, r"pixels\.mean = \(0\.5, 0\.5, 0\.5\)"),
        ({"pixels": {**INFO.as_dict()["pixels"], "resize": "nearest"}}, r"pixels\.resize = 'nearest'"),
        ({"pixels": {**INFO.as_dict()["pixels"], "resolution": 224}}, r"pixels\.resolution = 224, expected img_size"),
        ({"pixels": {**INFO.as_dict()["pixels"], "short_side": -1}}, r"pixels\.short_side = -1"),
        ({"kwargs": {**KWARGS, "img_size": None}}, r"kwargs\.img_size = None"),
        ({"kwargs": {"img_size": 64, "num_frames": 8, "num_classes": 2}}, r"kwargs\.strategy = None, expected one of"),
        ({"kwargs": {key: KWARGS[key] for key in KWARGS if key != "keep_ratio"}}, "kwargs lack keep_ratio"),
        ({"kwargs": []}, r"kwargs = \[\]"),
        ({"version": 3}, "version 3 of model.json; expected version 2"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_cure(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"m/model\.json.*{message}.*Cure: `everest convert-checkpoint"):
        read(**changes)


def test_a_record_of_an_earlier_version_is_refused_naming_what_it_lacks() -> None:
    old = {"architecture": INFO.architecture, "kwargs": KWARGS, "stage": "finetune", "frame_step": 4}
    with pytest.raises(ValueError, match=r"version 1 of model\.json, without dataset, classes, views, pixels.*Cure"):
        ModelInfo.parse(old, "m/model.json")
    for name in ("classes", "frame_step", "views", "pixels", "dataset"):
        lacking = {key: value for key, value in INFO.as_dict().items() if key != name}
        with pytest.raises(ValueError, match=rf"m/model\.json lacks {name}\. Cure"):
            ModelInfo.parse(lacking, "m/model.json")


def test_a_record_cannot_be_made_with_another_number_of_names() -> None:
    with pytest.raises(ValueError, match="classes has 1 names, expected num_classes = 2"):
        replace(INFO, classes=("jump",))


def test_what_earlier_versions_noted_is_read_as_it_was_meant() -> None:
    old = {
        "benchmark": "mine", "classes": ["jump", "run"], "frame_step": 4, "short_side": 96,
        "views": {"segments": 5, "crops": 3},
    }  # fmt: skip
    assert known_fields(old, "here") == {
        "dataset": "mine", "classes": ("jump", "run"), "frame_step": 4, "short_side": 96, "views": Views(5, 3),
    }  # fmt: skip
    assert known_fields({"stage": "finetune"}, "here") == {"views": Views()}
