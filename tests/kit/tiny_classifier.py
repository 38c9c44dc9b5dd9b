"""A tiny classifier that tells three textures apart by its weights."""

from __future__ import annotations

from pathlib import Path

import timm
import torch

import models  # noqa: F401 - registers the names with timm
from models.info import ModelInfo, Pixels, Views
from models.weights import save_model

NAMES = ("falls", "rises", "turns")


def save(folder: Path, frame_step: int, views: Views, temperature: float | None = None) -> Path:
    """Save it, trained at this frame step and tested with these views, described as the registry keeps one."""
    torch.manual_seed(1)
    network = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=3, keep_ratio=0.5)
    with torch.no_grad():
        network.head.weight.mul_(50)
    notes = {} if temperature is None else {"temperature": {"value": temperature, "split": "val", "videos": 40}}
    info = ModelInfo(
        network.architecture,
        network.kwargs,
        "finetune",
        "three-ways",
        NAMES,
        frame_step,
        views,
        Pixels(32, None),
        notes,
    )
    save_model(network, folder, info.as_dict())
    return folder
