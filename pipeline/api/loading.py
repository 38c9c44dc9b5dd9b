"""A model by its name, ready to be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from models.info import ModelInfo

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be used.

    Attributes:
        folder: where it lies.
        info: what its model.json says: clips, pixels, classes, views.
        network: an `EverestClassifier` or `EverestAutoencoder`, in evaluation mode; both follow timm's conventions for
            backbones (`models.backbone`).
        sha256: of its weights.
    """

    folder: Path
    info: ModelInfo
    network: Any
    sha256: str

    def pixels(self, frames_BTHWC: np.ndarray) -> Tensor:
        """Square frames, uint8 RGB [B, T, s, s, 3], as the network takes them: normalised [B, 3, T, size, size]."""
        import torch

        from pipeline.data.pixels.normalise import model_pixels

        device = next(self.network.parameters()).device
        return model_pixels(torch.from_numpy(frames_BTHWC), self.info.pixels.resolution, device)


def load(model: str | Path, *, device: Device = "auto", **overrides: Any) -> LoadedModel:
    """A model by its name, with its network on a device.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        overrides: arguments of the network that decide no weights, such as `strategy="none"` or `keep_ratio=1.0`.

    Raises:
        InputError: no such model, files that are broken or do not belong together, an argument that it cannot have.
    """
    from pipeline.distributed.groups import choose_device
    from pipeline.inference.models import load_any
    from pipeline.model_folder import sha256

    folder, info, network = load_any(str(model), **overrides)
    return LoadedModel(folder, info, network.to(choose_device(device)), sha256(folder))
