"""Kernels that give the same bits for the same inputs, for a training that must repeat exactly on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """While it lasts, only kernels that repeat themselves run, where a GPU has such; torch warns of the others.

    cuDNN's attention is the one that does not in a step of ours: its gradients differ from run to run in the last bits.
    torch's own flash attention takes its place, at 1.6 times the time. On a CPU all kernels repeat anyway.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a device's first product is made
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cuda.enable_cudnn_sdp(before[1])
