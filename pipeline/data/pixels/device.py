"""From the host's memory to a GPU's without waiting for either."""

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
