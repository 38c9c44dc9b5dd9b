"""Kernels that give the same bits for the same inputs, for a training that must repeat exactly on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.utils.deterministic as fresh_memory

from pipeline.errors import InputError

#: What torch says of an operation that has no such kernel.
NONE_SUCH = "does not have a deterministic implementation"


@contextlib.contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """While it lasts, only kernels that repeat themselves run on a GPU.

    Attention is what does not in a step of ours: cuDNN's gradients differ from run to run in the last bits, and so do
    those of torch's flash attention unless nothing else is allowed (`warn_only` lets it go on as before). On a CPU all
    kernels repeat anyway.

    Raises:
        InputError: an operation has no such kernel.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a device's first product is made
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        fresh_memory.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Nothing of ours reads memory before it is written.
    fresh_memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    except RuntimeError as error:
        if NONE_SUCH not in str(error):
            raise
        name = str(error).partition(NONE_SUCH)[0].strip()
        raise InputError(
            f"compute.deterministic = true, but {name} has no kernel that repeats itself on this device. "
            "Cure: compute.deterministic: false, or a strategy without it."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cuda.enable_cudnn_sdp(before[1])
        fresh_memory.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
