"""Memory that is used again: on a CPU, fresh pages cost more than what is written into them."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

#: Blocks of one size that are kept while nobody uses them.
KEPT = 4


class Buffers:
    """Tensors whose memory comes back by itself once nobody holds them or a view of them.

    With a GPU, `page_locked` memory is torch's own, which it keeps until the copies that read it are done.
    """

    def __init__(self, page_locked: bool = False) -> None:
        self._free: dict[int, list[Tensor]] = {}
        self._lock = threading.Lock()
        self._page_locked = page_locked and torch.cuda.is_available()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
        """An uninitialised tensor on the CPU."""
        if self._page_locked:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = dtype.itemsize
        for length in shape:
            size *= length
        with self._lock:
            free = self._free.get(size)
            block = free.pop() if free else torch.empty(size, dtype=torch.uint8)
        # The new tensor's storage holds `lease`, and `lease` the block's memory. When the last view of the
        # tensor is
        # gone, `lease` dies and the block is free again.
        lease = block.numpy().view()
        weakref.finalize(lease, self._give, block)
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _give(self, block: Tensor) -> None:
        with self._lock:
            kept = self._free.setdefault(block.numel(), [])
            if len(kept) < KEPT:
                kept.append(block)
            # Other sizes are let go: memory stays within what the current shapes need.
            for size in [size for size in self._free if len(self._free) > KEPT and size != block.numel()][:1]:
                del self._free[size]
