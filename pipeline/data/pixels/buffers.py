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
        # Reentrant: what allocates under it may collect garbage, which gives blocks back in the same thread. The steps
        # below bear that between any two of them.
        self._lock = threading.RLock()
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
        weakref.finalize(lease, self._give, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _give(self, block: Tensor) -> None:
        with self._lock:
            kept = self._free.setdefault(block.numel(), [])
            if len(kept) < KEPT:
                kept.append(block)
            # Other sizes are let go: memory stays within what the current shapes need.
            if len(self._free) > KEPT:
                self._free.pop(next(size for size in list(self._free) if size != block.numel()), None)
