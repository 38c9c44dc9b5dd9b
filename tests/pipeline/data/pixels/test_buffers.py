"""Memory that comes back by itself, whenever that is."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from pipeline.data.pixels.buffers import Buffers


class Holder:
    """Garbage that only a search for it frees: it holds itself, and some memory."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory, self.me = memory, self


def test_memory_that_comes_back_while_other_memory_is_taken_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, real = Buffers(), torch.empty
    sizes = [8, 16, 24, 32, 40, 48]
    for size in sizes:
        Holder(buffers.take((size,)))

    def collects(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        gc.collect()
        return real(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", collects)
    taken: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: taken.append(buffers.take((64,))), daemon=True)
    thread.start()
    thread.join(5)
    assert [len(tensor) for tensor in taken] == [64]
    monkeypatch.undo()
    assert len(buffers.take((sizes[-1],))) == sizes[-1]
