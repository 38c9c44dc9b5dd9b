"""How right a probe is: of clips with one class the share that it names, of clips with several its mean precision.

Shapes: W clips, K classes.
"""

from __future__ import annotations

import numpy as np

from pipeline.monitor.measures.probes import Features
from pipeline.multilabel.labels import Truth
from pipeline.multilabel.precision import average_precision, mean_average_precision


def probe_score(guess_WK: Features, truth_WK: Truth, several: bool) -> float:
    """The share of clips whose class has the highest number (the first of equal ones); with `several`, mAP."""
    return mean_average_precision(guess_WK, truth_WK) if several else float(_hits(guess_WK, truth_WK).mean())


def clip_scores(guess_WK: Features, truth_WK: Truth, several: bool) -> Features:
    """How right the probe is on each clip, in [0, 1]: what an interval over clips is made of [W].

    1 or 0 where clips have one class. Where they have several: the average precision of the ranking of the classes,
    1 where the clip's own come first (scikit-learn's `label_ranking_average_precision_score` is its mean).
    """
    if several:
        return average_precision(guess_WK.T, truth_WK.T)
    return _hits(guess_WK, truth_WK).astype(np.float64)


def _hits(guess_WK: Features, truth_WK: Truth) -> Truth:
    return np.asarray(truth_WK[np.arange(len(truth_WK)), guess_WK.argmax(axis=1)])
