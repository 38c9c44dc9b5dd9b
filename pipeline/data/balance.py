"""Classes of unequal size: an order of an epoch in which each comes as often, or weights in the loss."""

from __future__ import annotations

import numpy as np

from pipeline.data.arrays import Floats, Ints
from pipeline.data.sampling import uniforms


def balanced_order(seed: int, epoch: int, label_N: Ints) -> Ints:
    """As many draws as there are rows, each class as often to within one, in a new order: a function of its arguments.

    A class with more videos than draws gives other ones in each epoch; one with fewer gives each of them as often, to
    within one. Draw `d` is row `d % N`, for the `d // N`-th time in this epoch, so that each has random numbers of its
    own.
    """
    count, classes = len(label_N), np.unique(label_N)
    each, rest = divmod(count, len(classes))
    favoured = np.argsort(uniforms(seed, epoch, classes, "balance class", 1)[:, 0], kind="stable")[:rest]
    draws = []
    for place, label in enumerate(classes):
        rows = np.flatnonzero(label_N == label)
        shuffled = rows[np.argsort(uniforms(seed, epoch, rows, "balance row", 1)[:, 0], kind="stable")]
        turn, member = np.divmod(np.arange(each + (place in favoured)), len(rows))
        draws.append(turn * count + shuffled[member])
    drawn = np.concatenate(draws)
    return drawn[np.argsort(uniforms(seed, epoch, drawn, "order", 1)[:, 0], kind="stable")].astype(np.int64)


def class_weights(label_N: Ints, classes: int) -> Floats:
    """A weight [K] for each class, inverse to its videos: their mean over the videos is 1; 0 where there are none."""
    counts = np.bincount(label_N, minlength=classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(label_N) / (present * np.maximum(counts, 1)), 0.0)
