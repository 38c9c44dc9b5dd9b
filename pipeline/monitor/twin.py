"""A private copy of the network that a pre-training trains: all looks are taken through it.

It gets the training's weights before each look. So nothing that a look does reaches the training: no mode, no hook,
no gradient, no compiled graph, no sharded parameter gathered at the wrong moment. Between looks it lies on the CPU.

Shapes: B clips, N tokens, V visible ones, R to reconstruct, X heads, D width, Y width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.autoencoder import EverestAutoencoder, PretrainOutput
from models.info import ModelArguments
from models.registry import create_autoencoder
from models.tokens import check_clip, normalised_targets, seen_clip, tubelets_at
from models.vit import Attention, Block
from pipeline.data.batch import Batch
from pipeline.data.pixels.device import to_device
from pipeline.data.pixels.transforms import EvalTransform
from pipeline.monitor.measures.spread import Features
from pipeline.monitor.measures.trivial import copy_loss, mean_loss

#: Keeps small gradients of fp16 from vanishing; only their shares are told.
FP16_SCALE = 1024.0


class Losses(NamedTuple):
    """Sums over the clips of a chunk: the network's loss, the mean-predictor's, the neighbour-copier's.

    Attributes:
        swapped: of the network's predictions against the tokens of the chunk's next clip, at the same places.
    """

    model: float
    mean: float
    copy: float
    swapped: float
    clips: int


class Pull(NamedTuple):
    """Where the gradient of the loss goes.

    Attributes:
        encoder: the encoder's share of its squared norm; the decoder has the rest.
        own: the cosine between where it pulls the predictions and where the clip's own tokens lie: 1 where the loss
            compares each prediction with the token that was asked for, about 0 where with another clip's.
    """

    encoder: float
    own: float


class Twin:
    """The copy of one rank.

    Args:
        name, arguments: of the autoencoder (`models.registry`).
        half: the type of products under autocast; None: fp32.
    """

    def __init__(
        self, name: str, arguments: ModelArguments, resolution: int, device: torch.device, half: torch.dtype | None
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and thrown away
            self.model: EverestAutoencoder = create_autoencoder(name, arguments).eval()
        self.device, self.half = device, half
        self._transform = EvalTransform(resolution)

    @contextlib.contextmanager
    def with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, it is on the device and has these weights, by the names of its parameters."""
        self.model.to(self.device)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])
        try:
            yield
        finally:
            if self.device.type != "cpu":
                self.model.to("cpu")

    def losses(self, batch: Batch) -> Losses:
        """How well a chunk is reconstructed, under masks that depend on the clips and the weights alone."""
        clip_BCTHW, noise_BN = self._inputs(batch)
        model = self.model
        with torch.no_grad(), self._autocast():
            output = cast(PretrainOutput, model(clip_BCTHW, noise_BN=noise_BN, return_output=True))
        grid = check_clip(clip_BCTHW, model.patch, model.tubelet, model.channels)
        used_BK = torch.cat([output.visible_BV, output.reconstruct_BR], dim=1)
        seen_BCTHW = seen_clip(clip_BCTHW, model.clip_input)
        tubelets_BKP = tubelets_at(seen_BCTHW, grid, used_BK, model.patch, model.tubelet)
        counts = [output.visible_BV.shape[1], output.reconstruct_BR.shape[1]]
        shown_BVP, asked_BRP = normalised_targets(tubelets_BKP, model.channels).split(counts, dim=1)
        count = len(clip_BCTHW)
        next_BCTHW = seen_BCTHW.roll(-1, dims=0)
        other_BRP = normalised_targets(
            tubelets_at(next_BCTHW, grid, output.reconstruct_BR, model.patch, model.tubelet), model.channels
        )
        prediction_BRP = output.prediction_BRP.float()
        # As a difference: of padding, which the loss leaves out, it is nearly 0.
        worse_BRP = (prediction_BRP - other_BRP).square() - (prediction_BRP - asked_BRP).square()
        return Losses(
            count * float(output.loss),
            float(mean_loss(asked_BRP).double().sum()),
            float(copy_loss(shown_BVP, asked_BRP, output.visible_BV, output.reconstruct_BR, grid).double().sum()),
            count * float(output.loss) + float(worse_BRP.mean(dim=(1, 2)).double().sum()),
            count,
        )

    def features(self, batch: Batch) -> Features:
        """The mean of the encoder's tokens of each clip [B, D], as `everest embed` gives it."""
        clip_BCTHW, _ = self._transform(batch, self.device)
        with torch.no_grad(), self._autocast():
            feature_BD = self.model.forward_head(self.model.forward_features(clip_BCTHW))
        return feature_BD.float().cpu().numpy().astype(np.float64)

    def attention_entropy(self, batch: Batch) -> list[float]:
        """For each block of the encoder, from the first: the entropy of its attention as a share of its maximum.

        A mean over clips, heads and visible tokens: 1 where all are attended to alike, 0 where one is alone.
        """
        found: list[float] = []

        def look(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append(_entropy(cast(Attention, attention), inputs[0]))

        blocks = [cast(Block, block) for block in self.model.encoder.blocks]
        hooks = [block.attn.register_forward_pre_hook(look) for block in blocks]
        clip_BCTHW, noise_BN = self._inputs(batch)
        try:
            with torch.no_grad(), self._autocast():
                self.model(clip_BCTHW, noise_BN=noise_BN)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def pull(self, batch: Batch) -> Pull:
        """What the gradient on a chunk does, in the mode of training."""
        clip_BCTHW, noise_BN = self._inputs(batch)
        model = self.model
        packed, model.packed = model.packed, False  # the predictions that the loss is made of
        model.train()
        try:
            with self._autocast():
                output = cast(PretrainOutput, model(clip_BCTHW, noise_BN=noise_BN, return_output=True))
            output.prediction_BRP.retain_grad()
            (output.loss * (FP16_SCALE if self.half == torch.float16 else 1.0)).backward()
        finally:
            model.packed = packed
            model.eval()
        squares = {True: 0.0, False: 0.0}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                squares[name.startswith("encoder.")] += float(parameter.grad.double().square().sum())
        self.model.zero_grad(set_to_none=True)
        total = squares[True] + squares[False]
        return Pull(squares[True] / total if total > 0 else float("nan"), self._towards_own(clip_BCTHW, output))

    def _towards_own(self, clip_BCTHW: Tensor, output: PretrainOutput) -> float:
        """The cosine of :class:`Pull`, over the tokens that have a gradient (padding has none)."""
        model, prediction_BRP = self.model, output.prediction_BRP
        if prediction_BRP.grad is None:
            return float("nan")
        grid = check_clip(clip_BCTHW, model.patch, model.tubelet, model.channels)
        seen_BCTHW = seen_clip(clip_BCTHW, model.clip_input)
        true_BRP = tubelets_at(seen_BCTHW, grid, output.reconstruct_BR, model.patch, model.tubelet)
        pulled_BRP = -prediction_BRP.grad.double()
        way_BRP = normalised_targets(true_BRP, model.channels).double() - prediction_BRP.detach().double()
        way_BRP = way_BRP * (pulled_BRP != 0).any(dim=2, keepdim=True)
        norms = float(pulled_BRP.norm() * way_BRP.norm())
        return float((pulled_BRP * way_BRP).sum()) / norms if norms > 0 else float("nan")

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A chunk's clips, and the noise that decides their masks."""
        clip_BCTHW, _ = self._transform(batch, self.device)
        slots, side = clip_BCTHW.shape[2] // self.model.tubelet, clip_BCTHW.shape[3] // self.model.patch
        return clip_BCTHW, to_device(batch.uniforms("mask", slots * side**2), self.device)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.half is None else torch.autocast(self.device.type, dtype=self.half)


def _entropy(attention: Attention, x_BVD: Tensor) -> float:
    """Of the attention over V tokens, as a share of log V, in fp32."""
    with torch.autocast(x_BVD.device.type, enabled=False):
        q_BVD, k_BVD = attention.qkv(x_BVD.float()).chunk(3, dim=2)[:2]
        q_BVD = q_BVD + attention.q_bias
        q_BXVY, k_BXVY = (x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in (q_BVD, k_BVD))
        share_BXVV = (q_BXVY @ k_BXVY.transpose(2, 3) * q_BXVY.shape[3] ** -0.5).softmax(dim=3)
        entropy = -torch.xlogy(share_BXVV, share_BXVV).sum(dim=3).mean()
    return float(entropy) / max(float(np.log(x_BVD.shape[1])), 1e-12)
