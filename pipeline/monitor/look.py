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
from pipeline.monitor.measures.probes import Features, knn_guess, ridge_guess
from pipeline.monitor.measures.scores import probe_score
from pipeline.monitor.measures.spread import deviation, rank_me, uniformity
from pipeline.monitor.twin import Losses, Twin
from pipeline.multilabel.labels import Truth, multi_hot
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


@dataclass(frozen=True)
class LookedAt:
    """A corpus as the encoder sees it.

    Attributes:
        features_VD: of its clips, those to fit on first.
        truth_VK: which classes each has; no rows where the probes know none.
    """

    corpus: FeatureSet
    features_VD: Features
    truth_VK: Truth


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
            metrics[names.ENCODER_GRADIENT], metrics[names.OWN_TARGETS] = twin.pull(first)
            metrics[names.HELDOUT_DEVIATION] = deviation(twin.features(first))
        if long:
            looked_at = [look_at_set(twin, one, ranks, alive) for one in clips.sets]
            if ranks.main:
                metrics |= _of_features(looked_at)
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


def look_at_set(twin: Twin, one: FeatureSet, ranks: Ranks, alive: Callable[[], None]) -> LookedAt:
    """The features of a corpus's clips, and which classes each has, on every rank (a collective)."""

    def compute(batch: Batch) -> tuple[Features, list[tuple[int, ...]]]:
        return twin.features(batch), batch.label_sets or [(label,) for label in batch.labels_B.tolist()]

    chunks = _shared_out(one.clips, ranks, compute, alive)
    sets = [labels for _, every in chunks for labels in every] if one.labelled else []
    truth_VK = multi_hot(sets, 1 + max((label for labels in sets for label in labels), default=0))
    return LookedAt(one, np.concatenate([features for features, _ in chunks]), truth_VK)


def _reconstruction(chunks: list[Losses]) -> dict[str, float]:
    count = sum(chunk.clips for chunk in chunks)
    model, mean, copy, swapped = (sum(values) / count for values in list(zip(*chunks, strict=True))[:-1])
    metrics = {
        names.HELDOUT_LOSS: model, names.MEAN_LOSS: mean, names.COPY_LOSS: copy, names.SWAPPED_LOSS: swapped
    }  # fmt: skip
    # Clips of one colour: there is nothing to predict.
    return metrics | ({names.LOSS_SHARE: model / mean} if mean > 0 else {})


def _of_features(looked_at: list[LookedAt]) -> dict[str, float]:
    if not all(np.isfinite(one.features_VD).all() for one in looked_at):
        return {}  # the weights are far off; the rules tell of the loss
    metrics: dict[str, float] = {}
    for one in looked_at:
        if one.corpus.labelled:
            metrics |= _probes(one.corpus, one.features_VD, one.truth_VK)
    features = np.concatenate([one.features_VD for one in looked_at])
    return metrics | {
        names.RANK_ME: rank_me(features),
        names.DEVIATION: deviation(features),
        names.UNIFORMITY: uniformity(features),
    }


def _probes(corpus: FeatureSet, features_VD: Features, truth_VK: Truth) -> dict[str, float]:
    """Both probes' scores, by their tracked names."""
    cut, several = corpus.fit, corpus.several
    fit, score = features_VD[:cut], features_VD[cut:]
    seen_truth, truth = truth_VK[:cut], truth_VK[cut:]
    ridge = ridge_guess(fit, seen_truth, score)
    found = {
        names.KNN_MAP if several else names.KNN: probe_score(knn_guess(fit, seen_truth, score), truth, several),
        names.RIDGE_MAP if several else names.RIDGE: probe_score(ridge.scored_WK, truth, several),
        names.RIDGE_SEEN_MAP if several else names.RIDGE_SEEN: probe_score(ridge.fitted_VK, seen_truth, several),
    }
    return {names.monitor_of(probe, corpus.name): value for probe, value in found.items()}


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
