"""From the host's memory to a GPU's without waiting for either, and pixels in the types that they are given."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """A small tensor on the device.

    On its way to a GPU it goes through page-locked memory: from any other, the copy waits for all that the device has
    been given to do.
    """
    device = torch.device(device)
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def exact(device: torch.device | str) -> torch.autocast:
    """Pixels are computed as written, also within a training's autocast.

    Autocast would take their matrix products in bf16: crops off by grey levels, rotations by half a pixel.
    """
    return torch.autocast(torch.device(device).type, enabled=False)
