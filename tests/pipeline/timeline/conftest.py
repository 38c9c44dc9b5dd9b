"""A tiny classifier that tells three textures apart by its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import models  # noqa: F401
from models.info import ModelInfo, Pixels, Views
from models.weights import save_model

NAMES = ("falls", "rises", "turns")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    network = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=3, keep_ratio=0.5)
    with torch.no_grad():
        network.head.weight.mul_(50)
    info = ModelInfo(
        network.architecture, network.kwargs, "finetune", "three-ways", NAMES, 3, Views(1, 1), Pixels(32, None)
    )
    save_model(network, folder, info.as_dict())
    return folder
