"""Batches on a GPU, each copied while the step before it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.clips.loader import ClipLoader


class Lane(Protocol):
    """Where copies run beside the computation."""

    def send(self, values: Tensor) -> tuple[Tensor, object]:
        """Begin a copy; what it becomes, and a ticket for it."""

    def receive(self, values: Tensor, ticket: object) -> Tensor:
        """The copy, which the computation may use from here on."""


class SideStream:
    """A stream of its own for copies to a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def send(self, values: Tensor) -> tuple[Tensor, object]:
        with torch.cuda.stream(self._stream):
            copied = values.to(self.device, non_blocking=True)
            return copied, self._stream.record_event()

    def receive(self, values: Tensor, ticket: object) -> Tensor:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ticket)  # type: ignore[arg-type]
        values.record_stream(stream)  # its memory is not used again before this stream is done with it
        return values


class DeviceLoader:
    """A loader's batches with the clips on a GPU: each is copied while the step before it computes.

    The copy costs memory for one more batch of uint8 clips on the device.
    """

    def __init__(self, loader: ClipLoader, lane: Lane) -> None:
        self.loader, self._lane = loader, lane

    @property
    def steps_per_epoch(self) -> int:
        return self.loader.steps_per_epoch

    def micro_batches(self, rank: int) -> int:
        """As of the loader."""
        return self.loader.micro_batches(rank)

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]:
        """The same batches in the same order as the loader's own."""
        sent: tuple[Batch, object] | None = None
        with contextlib.closing(self.loader.epoch(epoch, start_micro_step)) as batches:  # type: ignore[type-var]
            for batch in batches:
                copied, ticket = self._lane.send(batch.clips_BTHWC)
                if sent is not None:
                    yield self._received(*sent)
                sent = replace(batch, clips_BTHWC=copied), ticket
        if sent is not None:
            yield self._received(*sent)

    def _received(self, batch: Batch, ticket: object) -> Batch:
        return replace(batch, clips_BTHWC=self._lane.receive(batch.clips_BTHWC, ticket))
