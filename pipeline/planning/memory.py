"""Peak memory of a training step without running it: allocations are followed on tensors that hold no data.

The step (forward, backward, AdamW) runs under FakeTensorMode, which computes shapes only, while a dispatch
mode adds up the bytes of all living storages. What a GPU adds (its context, fragmentation of the allocator)
is added by the planner.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models  # noqa: F401 - registers the names with timm
from models.autoencoder import EverestAutoencoder
from models.tuning.learning import Learning, arrange
from pipeline.planning.rate import Arguments, optimizer_of, train_step


@dataclass(frozen=True)
class Footprint:
    """The memory of one rank [byte].

    A step's peak is in backward, `fixed` (parameters, moments, some gradients) and `per_clip` for each clip of a
    micro-batch; or, of few clips, where the optimizer has all gradients, `few_fixed` and `few_per_clip`. `frozen` of
    the parameters have no gradients and no moments.
    """

    parameters: int
    fixed: float
    per_clip: float
    frozen: int = 0
    few_fixed: float = 0.0
    few_per_clip: float = 0.0

    def at(self, clips: int) -> float:
        """[byte] at a micro-batch of `clips`."""
        return max(self.fixed + self.per_clip * clips, self.few_fixed + self.few_per_clip * clips)


class LivingBytes(TorchDispatchMode):
    """Adds up the bytes of storages from their first appearance to their end; `peak` is the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return result

    def follow(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_bytes(
    name: str,
    arguments: Arguments,
    clip: tuple[int, int],
    clips: int,
    precision: str,
    recompute: bool,
    fake: bool,
    gpu: bool = False,
    learning: Learning | None = None,
) -> tuple[int, int, int]:
    """(parameters, frozen ones, peak bytes) of two training steps of the timm model `name`.

    Args:
        clip: frames and resolution.
        fake: follow shapes only; False computes really, to check the former.
        gpu: as on a GPU: attention keeps no scores, and the autoencoder takes uint8 clips.
        learning: what of a classifier learns; None: all.
    """
    # Autograd starts its threads at a process's first backward pass, for the devices that it knows then: with a fake
    # one among them, no child that is forked later could train.
    torch.ones(1, requires_grad=True).sum().backward()
    with _shapes_only() if fake else contextlib.nullcontext(), _fused() if gpu else contextlib.nullcontext():
        model: Any = timm.create_model(name, **arguments)
        if learning is not None:
            arrange(model, learning)
        if recompute:
            model.set_grad_checkpointing(True)
        counter = LivingBytes()
        for parameter in [*model.parameters(), *model.buffers()]:
            counter.follow(parameter)
        optimizer = optimizer_of(model)
        frames, resolution = clip
        kind = torch.uint8 if gpu and isinstance(model, EverestAutoencoder) else torch.float32
        half = None if precision == "fp32" else torch.bfloat16
        with counter:
            for _ in range(2):
                train_step(model, optimizer, torch.zeros(clips, 3, frames, resolution, resolution, dtype=kind), half)
    parameters = list(model.parameters())
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    return sum(parameter.numel() for parameter in parameters), frozen, counter.peak


@contextlib.contextmanager
def _fused() -> Iterator[None]:
    """Attention by the fused kernel, as on a GPU in every precision; a CPU in bf16 takes products that keep scores."""
    from unittest import mock

    def attend(qkv_3BXNY: torch.Tensor, valid_BN: torch.Tensor | None = None) -> torch.Tensor:
        mask = None if valid_BN is None else valid_BN[:, None, None, :]
        q_BXNY, k_BXNY, v_BXNY = qkv_3BXNY.unbind(0)
        return torch.nn.functional.scaled_dot_product_attention(q_BXNY, k_BXNY, v_BXNY, attn_mask=mask)

    with mock.patch("models.vit.attend", attend):
        yield


@contextlib.contextmanager
def _shapes_only() -> Iterator[None]:
    from unittest import mock

    from torch._subclasses.fake_tensor import FakeTensorMode

    # Drawing a truncated normal looks at the values it drew, and here there are none.
    with FakeTensorMode(), mock.patch("torch.nn.init.trunc_normal_", lambda tensor, *_, **__: tensor):
        yield


def footprint(
    name: str,
    arguments: Arguments,
    clip: tuple[int, int],
    precision: str,
    recompute: bool = False,
    fake: bool = True,
    gpu: bool = False,
    learning: Learning | None = None,
) -> Footprint:
    """The larger of two lines, through few clips and through many: see :class:`Footprint`. Followed once in a process.

    Not `fake`, the line through few clips is all there is.
    """
    key = (name, tuple(sorted(arguments.items())), clip, precision, recompute, fake, gpu, learning)
    if key not in _FOLLOWED:
        _FOLLOWED[key] = _followed(name, arguments, clip, precision, recompute, fake, gpu, learning)
    return _FOLLOWED[key]


#: Clips that are followed: where the optimizer's peak may be the higher one, and where it no longer is. Shapes cost the
#: same at any size.
FEW, MANY = (4, 8), (256, 512)
#: Arguments of :func:`footprint` -> its result, which takes seconds.
_FOLLOWED: dict[tuple[object, ...], Footprint] = {}


def _followed(
    name: str,
    arguments: Arguments,
    clip: tuple[int, int],
    precision: str,
    recompute: bool,
    fake: bool,
    gpu: bool,
    learning: Learning | None,
) -> Footprint:
    def peak(clips: int) -> float:
        return peak_bytes(name, arguments, clip, clips, precision, recompute, fake, gpu, learning)[2]

    few, more = FEW
    parameters, frozen, low = peak_bytes(name, arguments, clip, few, precision, recompute, fake, gpu, learning)
    few_per_clip = (peak(more) - low) / (more - few)
    few_fixed = low - few * few_per_clip
    fixed, per_clip = few_fixed, few_per_clip
    many, most = MANY
    if fake and (high := peak(most)) > 1.01 * (few_fixed + few_per_clip * most):
        per_clip = (high - peak(many)) / (most - many)
        fixed = high - most * per_clip
    return Footprint(parameters, fixed, per_clip, frozen, few_fixed, few_per_clip)
