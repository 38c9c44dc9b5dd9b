"""A classifier as a Hugging Face folder, loaded again by transformers for the comparison with the original."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.system.files import write_text

if TYPE_CHECKING:
    import torch

    from models.info import ModelInfo

#: Where the packages of exports come from.
PACKAGES = "`make install` in the checkout, or `pip install '.[dev]'` there (an image of docker/ lacks them)"


def check_transformers() -> None:
    """Refuse an export whose result could not be compared.

    Raises:
        InputError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"The export for Hugging Face needs transformers. Cure: {PACKAGES}.")


def write_huggingface(source: Path, info: ModelInfo, folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write weights, configuration and image processor of the classifier in `source`; the forward of what was written.

    The forward takes our clips [B, 3, T, R, R]. Hugging Face's model has no choice of tokens: it computes all of them.

    Raises:
        InputError: a head that it has no counterpart for.
    """
    from pipeline.inference.convert import convert

    convert(source, folder, "huggingface")
    write_text(folder / "preprocessor_config.json", json.dumps(_processor(info), indent=2) + "\n")
    from transformers import VideoMAEForVideoClassification
    from transformers.utils import logging

    logging.disable_progress_bar()  # of 66 small tensors
    network = VideoMAEForVideoClassification.from_pretrained(folder, local_files_only=True).eval()

    def forward(clips_BCTHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(clips_BCTHW.transpose(1, 2)).logits
        return logits

    return forward


def _processor(info: ModelInfo) -> dict[str, object]:
    """How Hugging Face's processor makes our pixels: the short side to the resolution, the square in the middle."""
    side = info.pixels.resolution
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(info.pixels.mean),
        "image_std": list(info.pixels.deviation),
    }
