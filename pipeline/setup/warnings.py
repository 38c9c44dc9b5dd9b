"""What is wrong with a set of videos, said before anything is trained on it; each a sentence with its cure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from pipeline.audit.changes import CLIP_SECONDS
from pipeline.multilabel.labels import class_parts
from pipeline.setup.groups import Groups
from pipeline.setup.look import OwnSet
from pipeline.setup.split import Split
from pipeline.system.text import printable

#: Videos of a class below which its score says little, and how many times larger the largest class may be.
FEW, IMBALANCE = 10, 5
#: Ratio of frame rates, and of short sides, above which a set counts as mixed.
MIXED_RATES, MIXED_SIZES = 1.5, 2.0
#: Names that a message lists.
SHOWN = 5


def warnings(
    dataset: OwnSet, groups: Groups, split: Split, frame_step: int, clip_seconds: float | None = None
) -> list[str]:
    """Sentences on classes, lengths, rates, sizes, duplicates and files left out; none where nothing is wrong.

    Args:
        frame_step: that params.yaml will have; with `clip_seconds` frames are taken by time, over so many seconds.
    """
    return [
        *_left_out(dataset),
        *_classes(dataset),
        *_lengths(dataset, frame_step, clip_seconds),
        *_rates_and_sizes(dataset, clip_seconds),
        *_similar(dataset, groups, split),
        *split.remarks,
        *dataset.problems,
    ]


def _left_out(dataset: OwnSet) -> Iterator[str]:
    if dataset.left_out:
        reasons = Counter(video.reason for video in dataset.left_out)
        counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons.most_common())
        yield f"Videos left out: {len(dataset.left_out)} of {len(dataset.left_out) + len(dataset.videos)} ({counts})."
    names = {
        name for video in dataset.left_out for name in (class_parts(video.label) if dataset.several else [video.label])
    }
    gone = sorted(names - dataset.classes().keys() - {"-1", ""})
    if gone:
        yield f"Classes left out, since none of their videos can be used: {_names(gone)}."


def _classes(dataset: OwnSet) -> Iterator[str]:
    counts = dataset.classes()
    few = {name: count for name, count in counts.items() if count < FEW}
    if few:
        yield (
            f"Classes with fewer than {FEW} videos: {len(few)} of {len(counts)} "
            f"({_names([f'{name}: {count}' for name, count in few.items()])}). Their scores will say little. "
            "Cure: more videos, or fewer classes."
        )
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] > IMBALANCE * counts[least]:
        read = (
            "Read the average precision of each class."
            if dataset.several
            else f"A model that always says {printable(most)} is right in {counts[most] / sum(counts.values()):.0%}: "
            "read the recall of each class. Cure: more of the others, or finetune.balance: weights."
        )
        yield (
            f"The classes are out of balance: {printable(most)} has {counts[most]} videos, {printable(least)} has "
            f"{counts[least]}. {read}"
        )
    unlabelled = sum(not video.label for video in dataset.videos)
    if unlabelled:
        yield f"Videos without a class: {unlabelled}. Pre-training reads them, fine-tuning does not."


def _lengths(dataset: OwnSet, frame_step: int, clip_seconds: float | None) -> Iterator[str]:
    if dataset.whole:
        if short := sum(video.frames < dataset.clip_frames for video in dataset.videos):
            yield (
                f"Videos of fewer frames than the {dataset.clip_frames} of a clip: {short} of {len(dataset.videos)}. "
                "They repeat some in it."
            )
        return
    if clip_seconds is not None:
        short = sum(video.frames / video.fps < clip_seconds - 0.5 / video.fps for video in dataset.videos)
        if short:
            yield (
                f"Videos shorter than a clip of {clip_seconds:g} s: {short} of {len(dataset.videos)}. Their clips "
                "are the whole video."
            )
        return
    spanned = (dataset.clip_frames - 1) * frame_step + 1
    short = sum(video.frames < spanned for video in dataset.videos)
    if short:
        seconds = float(np.median([spanned / video.fps for video in dataset.videos]))
        yield (
            f"Videos shorter than a clip of {dataset.clip_frames} frames, {frame_step} apart ({seconds:.1f} s): "
            f"{short} of {len(dataset.videos)}. They repeat frames in it."
        )


def _rates_and_sizes(dataset: OwnSet, clip_seconds: float | None) -> Iterator[str]:
    rates = np.array([video.fps for video in dataset.videos])
    if clip_seconds is not None:
        slow = int((rates * clip_seconds < dataset.clip_frames).sum())
        again = (
            f" Videos with fewer than {dataset.clip_frames} frames in that time, which repeat some: {slow}. Cure: "
            "leave them out, or raise frame_step's clip_seconds."
        ) * (slow > 0)
        yield (
            f"Frame rates are mixed ({rates.min():.3g} to {rates.max():.3g} a second, median {np.median(rates):.3g}): "
            f"frames are taken by time, so that each clip spans {clip_seconds:g} s.{again}"
        )
    elif not dataset.whole and rates.max() > MIXED_RATES * rates.min():
        middle = float(np.median(rates))
        off = int(((rates > 1.25 * middle) | (rates < 0.8 * middle)).sum())
        yield (
            f"Frame rates are mixed ({rates.min():.3g} to {rates.max():.3g} a second, median {middle:.3g}): frames are "
            f"taken by number, not by time, so clips of {off} videos run faster or slower than the others "
            f"({CLIP_SECONDS * middle / rates.max():.1f} to {CLIP_SECONDS * middle / rates.min():.1f} s in place of "
            f"{CLIP_SECONDS:g}). Cure: convert them to one rate (ffmpeg -r)."
        )
    sides = np.array([video.short_side for video in dataset.videos])
    if sides.max() > MIXED_SIZES * sides.min():
        yield (
            f"Sizes are mixed: the short side is {sides.min()} to {sides.max()} pixels, median {np.median(sides):.0f}. "
            "Where classes differ in it, a model may learn the camera instead of the motion."
        )


def _similar(dataset: OwnSet, groups: Groups, split: Split) -> Iterator[str]:
    similar = dataset.similar()
    if not similar:
        return
    by_path = {video.path: video for video in dataset.videos}
    apart = [group for group in similar if len({split.of[path] for path in group} - {"unused"}) > 1]
    if apart:
        yield (
            f"Groups of nearly the same pictures in more than one split, as the table or the folders have it: "
            f"{len(apart)} (the first: {_names(apart[0][:2])}). Test scores will be too good. "
            "Cure: leave the split to this command, or put each group on one side."
        )
    else:
        yield f"Groups of nearly the same pictures: {len(similar)}. Each stays on one side of the split."
    crossed = [group for group in similar if len({by_path[path].label for path in group} - {""}) > 1]
    if crossed:
        yield (
            f"Of these in several classes: {len(crossed)} (the first: {_names(crossed[0][:2])}). "
            "Cure: look whether their labels are right."
        )


def _names(names: list[str]) -> str:
    return ", ".join(printable(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
