"""One look at the weights: the ranks share the chunks of clips out, rank 0 makes the numbers of what they found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from pipeline.data.arrays import U8
from pipeline.data.batch import Batch
from pipeline.distributed.groups import Ranks
from pipeline.monitor.clips import FeatureSet, FixedClips, MonitoredClips
from pipeline.monitor.measures.probes import knn_score, ridge_score
from pipeline.monitor.measures.spread import Features, deviation, rank_me, uniformity
from pipeline.monitor.twin import Losses, Twin
from pipeline.tracking import names

Result = TypeVar("Result")

#: [grey levels] by which a still picture's frames may differ after H.264 at usual qualities.
COMPRESSION = 8


@dataclass(frozen=True)
class Flaws:
    """What is wrong with clips that are trained on: shares of those looked at.

    Attributes:
        constant: of one colour, all of it.
        still: every frame is the first one; those of one colour are not counted again.
        twice: equal to another one, pixel by pixel.
    """

    constant: float
    still: float
    twice: float

    def metrics(self) -> dict[str, float]:
        """By their tracked names."""
        return {names.CONSTANT_CLIPS: self.constant, names.STILL_CLIPS: self.still, names.TWICE: self.twice}


def take_look(
    twin: Twin,
    weights: Mapping[str, Tensor],
    clips: MonitoredClips,
    ranks: Ranks,
    *,
    long: bool,
    alive: Callable[[], None],
) -> dict[str, float]:
    """The numbers by their tracked names, on rank 0; {} elsewhere (a collective).

    Equal on any number of ranks: a chunk is computed by one rank, whole, and numbers are made of all chunks in order.
    """
    with twin.with_weights(weights):
        losses = _shared_out(clips.heldout, ranks, twin.losses, alive)
        metrics = _reconstruction(losses) if ranks.main else {}
        if ranks.main:
            first = clips.heldout.chunk(0)
            metrics |= {names.attention_entropy(n): value for n, value in enumerate(twin.attention_entropy(first))}
            metrics[names.ENCODER_GRADIENT] = twin.encoder_gradient(first)
        if long:
            sets = [(one, _shared_out(one.clips, ranks, _with_labels(twin), alive)) for one in clips.sets]
            if ranks.main:
                metrics |= _of_features(sets)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def find_flaws(clips: FixedClips, ranks: Ranks, alive: Callable[[], None]) -> Flaws:
    """Look for clips that teach nothing (a collective)."""
    flaws = [flaw for chunk in _shared_out(clips, ranks, _flaws, alive) for flaw in chunk]
    digests = [digest for _, _, digest in flaws]
    count = max(len(flaws), 1)
    return Flaws(
        sum(constant for constant, _, _ in flaws) / count,
        sum(still for _, still, _ in flaws) / count,
        sum(digests.count(digest) > 1 for digest in digests) / count,
    )


def _shared_out(
    clips: FixedClips, ranks: Ranks, compute: Callable[[Batch], Result], alive: Callable[[], None]
) -> list[Result]:
    """The result of each chunk, in order, on every rank; each rank computes every world-th chunk."""
    own: list[Result] = []
    for number in range(ranks.rank, clips.chunks, ranks.world):
        alive()
        own.append(compute(clips.chunk(number)))
    parts = ranks.gather(own)
    return [parts[number % ranks.world][number // ranks.world] for number in range(clips.chunks)]


def _with_labels(twin: Twin) -> Callable[[Batch], tuple[Features, list[int]]]:
    return lambda batch: (twin.features(batch), batch.labels_B.tolist())


def _reconstruction(chunks: list[Losses]) -> dict[str, float]:
    count = sum(chunk.clips for chunk in chunks)
    model, mean, copy = (
        sum(values) / count for values in zip(*((chunk.model, chunk.mean, chunk.copy) for chunk in chunks), strict=True)
    )
    metrics = {names.HELDOUT_LOSS: model, names.MEAN_LOSS: mean, names.COPY_LOSS: copy}
    # Clips of one colour: there is nothing to predict.
    return metrics | ({names.LOSS_SHARE: model / mean} if mean > 0 else {})


def _of_features(sets: list[tuple[FeatureSet, list[tuple[Features, list[int]]]]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    every = []
    for one, chunks in sets:
        features = np.concatenate([chunk for chunk, _ in chunks])
        labels = np.asarray([label for _, chunk in chunks for label in chunk], dtype=np.int64)
        if not np.isfinite(features).all():
            return {}  # the weights are far off; the rules tell of the loss
        every.append(features)
        if one.labelled:
            parts = features[: one.fit], labels[: one.fit], features[one.fit :], labels[one.fit :]
            ridge = ridge_score(*parts)
            metrics[names.monitor_of(names.KNN, one.name)] = knn_score(*parts)
            metrics[names.monitor_of(names.RIDGE, one.name)] = ridge.scored
            metrics[names.monitor_of(names.RIDGE_SEEN, one.name)] = ridge.fitted
    features = np.concatenate(every)
    return metrics | {
        names.RANK_ME: rank_me(features),
        names.DEVIATION: deviation(features),
        names.UNIFORMITY: uniformity(features),
    }


def _flaws(batch: Batch) -> list[tuple[bool, bool, bytes]]:
    """For each clip: of one colour; otherwise still; a digest of its pixels."""
    found = []
    for clip_THWC, (height, width) in zip(batch.clips_BTHWC.numpy(), batch.sizes_B2.tolist(), strict=True):
        frames = clip_THWC[:, :height, :width]
        constant = _alike(frames, frames[:1, :1, :1])
        still = not constant and _alike(frames, frames[:1])
        found.append((constant, still, hashlib.sha256(np.ascontiguousarray(frames).tobytes()).digest()))
    return found


def _alike(frames: U8, other: U8) -> bool:
    """Whether all but a thousandth of the values differ by no more than what compression adds."""
    differs = np.abs(frames.astype(np.int16) - other) > COMPRESSION
    return bool(differs.mean() <= 1e-3)
