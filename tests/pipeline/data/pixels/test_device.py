"""What goes to a GPU: batches ahead of their step, crops as two products, without copying matrices about."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.batch import Batch
from pipeline.data.clips.ahead import DeviceLoader
from pipeline.data.pixels.device import to_device
from pipeline.data.pixels.resize import crop_resize, resize_batched


def _batch(number: int) -> Batch:
    one = torch.zeros(1, dtype=torch.int64)
    clips = torch.full((1, 2, 4, 4, 3), number, dtype=torch.uint8)
    return Batch(clips, torch.tensor([[4, 4]]), one, one + number, one, torch.zeros(1, 2, dtype=torch.int64), 0, 0)


class _Lane:
    """Notes what happens; copies as a side stream would."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def send(self, values: Tensor) -> tuple[Tensor, object]:
        self.events.append(f"send {int(values[0, 0, 0, 0, 0])}")
        return values.clone(), int(values[0, 0, 0, 0, 0])

    def receive(self, values: Tensor, ticket: object) -> Tensor:
        assert ticket == int(values[0, 0, 0, 0, 0])
        self.events.append(f"receive {ticket}")
        return values


def _loader(events: list[str], batches: int, start: int = 0) -> DeviceLoader:
    def epoch(_epoch: int, start_micro_step: int) -> Iterator[Batch]:
        try:
            yield from (_batch(number) for number in range(start_micro_step, batches))
        finally:
            events.append("closed")

    return DeviceLoader(SimpleNamespace(epoch=epoch, steps_per_epoch=batches), _Lane(events))  # type: ignore[arg-type]


def test_a_batch_is_sent_while_the_one_before_it_is_used() -> None:
    events: list[str] = []
    used = (f"use {int(batch.index_B)}" for batch in _loader(events, 3).epoch(0))
    events.extend(used)
    assert events == [
        "send 0", "send 1", "receive 0", "use 0", "send 2", "receive 1", "use 1", "closed", "receive 2", "use 2",
    ]  # fmt: skip


@pytest.mark.parametrize("start", [0, 2, 3])
def test_an_epoch_continues_in_its_middle_with_the_same_batches(start: int) -> None:
    indices = [int(batch.index_B) for batch in _loader([], 3).epoch(0, start)]
    assert indices == list(range(start, 3))


def test_an_epoch_that_is_left_ends_the_reading() -> None:
    events: list[str] = []
    epoch = _loader(events, 5).epoch(0)
    next(epoch)
    epoch.close()
    assert events[-1] == "closed"


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.arange(3)
    assert to_device(values, "cpu") is values


class _Largest(TorchDispatchMode):
    """The most values that any one result holds memory for."""

    values = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))  # type: ignore[operator]
        if isinstance(result, Tensor):
            self.values = max(self.values, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_resizing_a_batch_makes_no_tensor_larger_than_its_frames() -> None:
    """A product over the innermost colours would hold a matrix of columns for each row of each frame.

    That is 140 GB for 256 clips of 16 frames.
    """
    clips = torch.randint(0, 256, (2, 4, 48, 64, 3), dtype=torch.uint8)
    boxes = np.asarray([[0, 0, 48, 48], [8, 8, 32, 40]])
    with _Largest() as largest:
        resize_batched(clips, boxes, 32, np.asarray([False, True]))
    assert largest.values <= clips.numel()


def test_a_batch_is_resized_as_its_clips_are_on_a_cpu() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (3, 4, 3, 6, 8), dtype=np.uint8)).flatten(0, 1)
    clips = torch.nn.functional.interpolate(coarse.float(), (48, 64), mode="bilinear").to(torch.uint8)
    clips = clips.unflatten(0, (3, 4)).permute(0, 1, 3, 4, 2).contiguous()
    boxes = np.asarray([[0, 0, 48, 48], [8, 9, 31, 40], [3, 0, 13, 64]])
    flips = np.asarray([False, True, False])
    batched, each = resize_batched(clips, boxes, 32, flips), crop_resize(clips, boxes, 32, "cpu", flips)
    assert batched.shape == each.shape
    assert int((batched.int() - each.int()).abs().max()) <= 1
