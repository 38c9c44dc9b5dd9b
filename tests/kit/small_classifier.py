"""A classifier of the small benchmark with random weights, as if fine-tuned."""

from __future__ import annotations

from typing import Any

import timm
import torch

import models  # noqa: F401
from models.info import ModelInfo, Pixels, Views
from models.weights import save_model
from pipeline import layout
from pipeline.data import manifest
from pipeline.params import Params
from pipeline.training import tasks


def classifier(params: Params, classes: int = 8, **facts: Any) -> None:
    """A classifier with random weights that tells videos apart, as if fine-tuned; `facts` for its model.json."""
    torch.manual_seed(3)
    arguments = tasks.classifier_arguments(params.finetune_of("small"), params.clip, classes)
    listed = manifest.class_names(layout.manifest_dir("small"), 8)
    names = tuple(listed if classes == 8 else map(str, range(classes)))
    model = timm.create_model("everest_tiny_patch16_224", **arguments)
    with torch.no_grad():
        model.head.weight.mul_(40)
    pixels = Pixels(params.clip.resolution, params.preprocess.short_side)
    step = params.benchmark("small").data.frame_step
    info = ModelInfo(model.architecture, arguments, "finetune", "small", names, step, Views(), pixels, facts)
    save_model(model, layout.output_dir("finetune", "small"), info.as_dict())
