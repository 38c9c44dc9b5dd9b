"""The clips that every look at a pre-training takes: always the same, in the same batches, whichever rank reads them.

A clip is the middle of its video, its centre square. Which videos: chosen by their ids alone, the same for every seed.
The unit of work is a chunk of 16 clips: a rank computes whole chunks, so that results do not depend on how many ranks
share them out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.data.arrays import Ints
from pipeline.data.batch import Batch
from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.frame_source import FrameSource
from pipeline.params import Params

#: [clips] that are computed together.
CHUNK = 16
#: Which part of a corpus's clips the probes are fitted on; the others are scored.
FIT_SHARE = 2 / 3


@dataclass(frozen=True)
class FeatureSet:
    """Clips of one corpus for the probes and the rank: the first `fit` of them are fitted on, the others scored.

    Attributes:
        labelled: whether the probes may and can read labels.
        several: whether a video has several classes.
        unseen: whether the scored clips are of the split `val`, which no pre-training sees; else of `train` too.
    """

    name: str
    clips: FixedClips
    fit: int
    labelled: bool
    several: bool
    unseen: bool

    def positives(self, rows: slice) -> int:
        """Of some of the clips: how many there are; of videos with several classes how many a class has, on average."""
        dataset = self.clips.dataset
        numbers = np.arange(len(dataset))[rows]
        if not self.several:
            return len(numbers)
        sets = dataset.label_sets(numbers)
        classes = {label for labels in sets for label in labels}
        return round(sum(map(len, sets)) / max(len(classes), 1))


class FixedClips:
    """Some rows of some sources as chunks of clips, in order."""

    def __init__(self, members: Sequence[Member], frames: int, seed: int) -> None:
        self.dataset = ClipDataset(members, ClipRule(frames, random=False))
        # An unreadable clip gives way to another, always the same one: a look must not end a training.
        self._loader = ClipLoader(
            self.dataset, seed=seed, global_batch=CHUNK, shuffle=False, drop_last=False, replace=True
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def chunks(self) -> int:
        return self._loader.steps_per_epoch

    def chunk(self, number: int) -> Batch:
        """One chunk, read now."""
        return next(self._loader.epoch(0, start_micro_step=number))


@dataclass(frozen=True)
class MonitoredClips:
    """All that looks are taken at.

    Attributes:
        heldout: whose reconstruction is scored.
        unseen: whether those are of a split that pre-training does not see.
        sets: one for each corpus.
        trained: clips of the corpus, for what can be wrong with them.
    """

    heldout: FixedClips
    unseen: bool
    sets: tuple[FeatureSet, ...]
    trained: FixedClips


def monitored_clips(params: Params, corpus: ClipDataset) -> MonitoredClips:
    """Choose the clips from the sources of `corpus`, which is what the pre-training reads."""
    own, clip = params.pretrain.monitor, params.clip
    members = dict(zip(params.pretrain.corpus, corpus.members, strict=True))
    unseen = all(_usable(member.source, "val") for member in members.values())
    share = -(-own.heldout_clips // len(members))
    heldout, trained = [], []
    for member in members.values():
        rows = _ints(member.source.rows("val")) if unseen else member.rows
        heldout.append(replace(member, rows=_some(rows, member.source, share)))
        trained.append(replace(member, rows=_some(member.rows, member.source, share)))
    wanted = params.pretrain.corpus if own.benchmarks is None else own.benchmarks
    sets = tuple(
        feature_set(name, member, own.feature_clips, clip.frames, params.seed, wanted=name in wanted)
        for name, member in members.items()
    )
    return MonitoredClips(
        FixedClips(heldout, clip.frames, params.seed), unseen, sets, FixedClips(trained, clip.frames, params.seed)
    )


def feature_set(name: str, member: Member, count: int, frames: int, seed: int, *, wanted: bool = True) -> FeatureSet:
    """At most `count` clips of a corpus for the probes, chosen by the videos' ids alone.

    Args:
        member: the rows that may be fitted on; those to score are its source's of the split `val`, if there are some.
        frames: of a clip.
        wanted: whether its labels may be read.
    """
    source = member.source
    labelled = wanted and any(source.label(int(row)) >= 0 for row in member.rows)
    seen = _labelled(member.rows, source) if labelled else member.rows
    other = _ints(source.rows("val"))
    other = _labelled(other, source) if labelled else other
    for_fit = round(FIT_SHARE * count)
    unseen = len(other) > 1
    if unseen:
        fit = _some(seen, source, for_fit)
        score = _some(other, source, count - for_fit)
    else:
        both = _some(seen, source, count)
        places = np.random.default_rng(0).permutation(len(both))  # `both` is in the order of the source
        cut = max(1, round(FIT_SHARE * len(both)))
        fit, score = both[np.sort(places[:cut])], both[np.sort(places[cut:])]
    rows = np.concatenate([fit, score])
    # All alike, or nothing to score: no probe.
    kinds = {_classes(source, int(row)) for row in fit}
    labelled = labelled and len(kinds) > 1 and len(score) > 0
    clips = FixedClips([replace(member, rows=rows)], frames, seed)
    return FeatureSet(name, clips, len(fit), labelled, source.label_sets is not None, unseen)


def _some(rows: Ints, source: FrameSource, count: int) -> Ints:
    """At most `count` rows, by the hash of the videos' ids, as many of each class as there are; in order.

    A video of several classes counts for its rarest one.
    """
    numbers = sorted((int(row) for row in rows), key=lambda row: _place(source.ids[row]))
    frequency = Counter(label for row in numbers for label in _classes(source, row))
    by_class: dict[int, list[int]] = {}
    for row in numbers:
        rarest = min(_classes(source, row), key=lambda label: (frequency[label], label), default=-1)
        by_class.setdefault(rarest, []).append(row)
    return _ints(sorted(_in_turn(list(by_class.values()), count)))


def _in_turn(classes: Sequence[Sequence[int]], count: int) -> Iterator[int]:
    """One of each class after another, until there are so many."""
    turn, given = 0, 0
    while given < count and any(turn < len(rows) for rows in classes):
        for rows in classes:
            if turn < len(rows) and given < count:
                yield rows[turn]
                given += 1
        turn += 1


def _classes(source: FrameSource, row: int) -> tuple[int, ...]:
    return source.label_sets[row] if source.label_sets else (source.label(row),)


def _labelled(rows: Ints, source: FrameSource) -> Ints:
    return _ints([int(row) for row in rows if source.label(int(row)) >= 0])


def _ints(rows: Sequence[int]) -> Ints:
    return np.asarray(rows, dtype=np.int64)


def _usable(source: FrameSource, split: str) -> bool:
    return len(source.rows(split)) > 1


def _place(video: str) -> bytes:
    return hashlib.sha256(video.encode()).digest()
