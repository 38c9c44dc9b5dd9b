"""Safetensors files written as a stream, hashed on the way, and read only after their hash was checked.

The format: 8 bytes little-endian header length, a JSON header, the raw tensors. Writing it here rather than
through the library keeps one tensor in flight instead of a second copy of the model, and releases the
interpreter while hashing and writing, so that training goes on. Reading is the library's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import safetensors.torch
import torch

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Write and fsync `tensors` (on the CPU); return the SHA-256 of what was meant, in hexadecimal.

    Raises:
        OSError: the disk is full or the folder read-only.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for tensor in tensors.values():
            if tensor.numel():
                data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
                file.write(data)
                digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file's bytes, on the CPU. Carries no code, whatever the file holds."""
    # The library returns them in an order of its own, another in each process; sharding them is a collective.
    return dict(sorted(safetensors.torch.load(data).items()))


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
