"""What trivial models reach on a benchmark: a score that does not beat them says nothing about video.

Each video is its middle clip, made small and grey. Logistic regression and nearest neighbours look at one frame, at the
differences between frames, or at both, after a principal component analysis; the majority class looks at nothing. One
more looks at differences whose place in the picture means nothing, since each clip is moved by a shift of its own.

Legend: V videos, T frames of a clip, s the side of a small picture, F features.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data import sampling
from pipeline.data.arrays import U8
from pipeline.evaluation.metrics import Interval, share_interval
from pipeline.multilabel.labels import Truth
from pipeline.multilabel.precision import mean_average_precision, precision_interval

Pictures = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

ONE_FRAME, DIFFERENCES = "one frame", "frame differences"
REGRESSION = "logistic regression"
#: The same after each clip was moved to a place of its own: what is lost is what the place tells.
MOVED = f"{DIFFERENCES} at random places"
#: [pixels] of a small picture's side.
SIDE = 16
COMPONENTS = 60
NEIGHBOURS = 5
#: Inverse strengths of the regression's penalty; the validation split chooses among them.
STRENGTHS = (0.1, 1.0, 10.0)
#: At most so many videos of a split are looked at, so that a large benchmark takes seconds too.
MOST = 4000


@dataclass(frozen=True)
class Clips:
    """Small clips of one split, grey, [V, T, s, s] in [0, 1], and their labels [V].

    `truth` are the classes of each, [V, C], where videos have several; `labels` are then the first ones.
    """

    pictures: Pictures
    labels: Labels
    truth: Truth | None = None


@dataclass(frozen=True)
class Baseline:
    """The score of one trivial model on the reported split, with its 95 % interval; shares in [0, 1].

    `top1` is the accuracy, or where videos have several classes the mean average precision; `metric` says which.
    """

    name: str
    top1: float
    interval: Interval
    metric: str = "top-1"

    @property
    def key(self) -> str:
        """The name as part of a metric's name."""
        return re.sub(r"\W+", "_", self.name)


def small_grey(frames: U8, side: int = SIDE) -> Pictures:
    """The centre square of frames [T, h, w, 3], as means over a grid of side x side: [T, s, s] in [0, 1]."""
    height, width = frames.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    grey = frames[:, top : top + edge, left : left + edge].astype(np.float32) @ np.asarray(
        [0.299, 0.587, 0.114], np.float32
    )
    bounds = np.linspace(0, edge, side + 1).astype(np.int64)
    rows = np.add.reduceat(grey, bounds[:-1], axis=1) / np.maximum(np.diff(bounds), 1)[None, :, None]
    cells = np.add.reduceat(rows, bounds[:-1], axis=2) / np.maximum(np.diff(bounds), 1)[None, None, :]
    return np.asarray(cells / 255, dtype=np.float32)


def middle_clip(
    read: Callable[[npt.NDArray[np.int64]], U8], num_frames: int, frames: int, step: int | float, grid: int = 1
) -> Pictures:
    """The small pictures [T, s, s] of a video's middle clip.

    Args:
        read: frames by number.
        num_frames, frames, step: of the video, of the clip, and from one frame of the clip to the next.
        grid: only multiples of this frame number can be read.
    """
    return small_grey(read(sampling.centre_clip(num_frames, frames, step, grid)))


def baselines(train: Clips, test: Clips, val: Clips | None, *, draws: int, seed: int = 0) -> list[Baseline]:
    """Every trivial model's score on `test`, the majority class first.

    Args:
        val: chooses the regression's penalty; without it the middle one is taken.
        draws: of the bootstrap that makes the intervals.

    Raises:
        ValueError: the training split has fewer than two classes.
    """
    if train.truth is not None and test.truth is not None:
        return [
            Baseline(
                name,
                mean_average_precision(score_VC, test.truth),
                Interval(*precision_interval(score_VC, test.truth, draws, seed)),
                "mAP",
            )
            for name, score_VC in _rankings(train.truth, train, test, val, seed)
        ]
    if len(np.unique(train.labels)) < 2:
        raise ValueError("the training videos are of one class. Cure: trivial models need two classes or more.")
    majority = np.bincount(train.labels).argmax()
    answers = [("majority", np.full(len(test.labels), majority))]
    answers += _predictions(train, test, val, seed)
    return [
        Baseline(name, float((predicted == test.labels).mean()), share_interval(predicted == test.labels, draws, seed))
        for name, predicted in answers
    ]


def _predictions(train: Clips, test: Clips, val: Clips | None, seed: int) -> Iterator[tuple[str, Labels]]:
    from sklearn.neighbors import KNeighborsClassifier

    for name, features in FEATURES.items():
        projected = _projected([features(part.pictures) for part in (train, test, *([val] if val else []))], seed)
        yield f"{name}, {REGRESSION}", _regression(projected, train.labels, val.labels if val else None)
        neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train.labels)), metric="cosine")
        yield f"{name}, nearest neighbours", neighbours.fit(projected[0], train.labels).predict(projected[1])
    moved = [_moved(part.pictures, seed + n) for n, part in enumerate((train, test, *([val] if val else [])))]
    projected = _projected([_differences(pictures) for pictures in moved], seed)
    yield f"{MOVED}, {REGRESSION}", _regression(projected, train.labels, val.labels if val else None)


def _rankings(truth_VC: Truth, train: Clips, test: Clips, val: Clips | None, seed: int) -> Iterator[tuple[str, Scores]]:
    """Scores [V, C] that each trivial model gives the classes of `test`, where videos have several.

    The majority answers with each class's frequency; regressions are one for each class, neighbours vote.
    """
    from sklearn.neighbors import NearestNeighbors

    frequency_C = truth_VC.mean(axis=0)
    yield "majority", np.tile(frequency_C, (len(test.labels), 1))
    for name, features in FEATURES.items():
        projected = _projected([features(part.pictures) for part in (train, test, *([val] if val else []))], seed)
        given = {strength: _regressions(projected[0], truth_VC, strength) for strength in STRENGTHS}
        best = STRENGTHS[1]
        if val is not None and (held_out_VC := val.truth) is not None:
            ranked = {
                strength: mean_average_precision(given[strength](projected[2]), held_out_VC) for strength in given
            }
            best = max(ranked, key=lambda strength: ranked[strength])
        yield f"{name}, {REGRESSION}", given[best](projected[1])
        neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(truth_VC)), metric="cosine").fit(projected[0])
        near_VN = neighbours.kneighbors(projected[1], return_distance=False)
        yield f"{name}, nearest neighbours", truth_VC[near_VN].mean(axis=1)


def _regressions(train: npt.NDArray[np.float32], truth_VC: Truth, strength: float) -> Callable[[Pictures], Scores]:
    """Features [V, F] -> probability [V, C] of each class, by a regression for each; of a constant class its share."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    models = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for truth_V in truth_VC.T:
            both = truth_V.any() and not truth_V.all()
            models.append(LogisticRegression(C=strength, max_iter=300).fit(train, truth_V) if both else None)
    share_C = truth_VC.mean(axis=0)

    def answer(features: Pictures) -> Scores:
        columns = [
            np.full(len(features), share) if model is None else model.predict_proba(features)[:, 1]
            for model, share in zip(models, share_C, strict=True)
        ]
        return np.stack(columns, axis=1)

    return answer


def _projected(parts: list[npt.NDArray[np.float32]], seed: int) -> list[npt.NDArray[np.float32]]:
    """Principal components [V, F] of each part, scaled by the largest deviation, all fitted on the first."""
    from sklearn.decomposition import PCA

    most = min(COMPONENTS, *parts[0].shape)
    with np.errstate(invalid="ignore"):  # clips that rest have no variance to share out
        fitted = PCA(most, svd_solver="randomized", random_state=seed).fit(parts[0])
    scale = max(float(np.sqrt(fitted.explained_variance_[0])), 1e-12)
    return [fitted.transform(part) / scale for part in parts]


def _regression(parts: list[npt.NDArray[np.float32]], train_labels: Labels, val_labels: Labels | None) -> Labels:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    def fitted(strength: float) -> LogisticRegression:
        with warnings.catch_warnings():
            # A regression that stops early is a baseline too; its score is what counts.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=strength, max_iter=300).fit(parts[0], train_labels)

    if val_labels is None:
        return np.asarray(fitted(STRENGTHS[1]).predict(parts[1]))
    best = max((fitted(strength) for strength in STRENGTHS), key=lambda model: model.score(parts[2], val_labels))
    return np.asarray(best.predict(parts[1]))


@dataclass(frozen=True)
class Told:
    """What trivial models say tells the classes apart, where their 95 % intervals do not meet.

    Attributes:
        best, still: the best model, and the best that looks at one frame.
        fixed, moved: logistic regression on differences where they are, and moved to random places.
        by_motion: differences between frames do, and one frame does not.
        by_place: and it matters where in the picture things move, since `moved` tells less than `fixed`.
    """

    best: Baseline
    still: Baseline
    fixed: Baseline
    moved: Baseline
    by_motion: bool
    by_place: bool


def told(results: Sequence[Baseline]) -> Told | None:
    """Read trivial models' scores; None where videos have several classes, whose models are others."""
    by_name = {result.name: result for result in results}
    fixed, moved = by_name.get(f"{DIFFERENCES}, {REGRESSION}"), by_name.get(f"{MOVED}, {REGRESSION}")
    if fixed is None or moved is None:
        return None
    best = max(results, key=lambda result: result.top1)
    still = max((result for result in results if result.name.startswith(ONE_FRAME)), key=lambda result: result.top1)
    by_motion = best.name.startswith(DIFFERENCES) and best.interval.low > still.interval.high
    return Told(best, still, fixed, moved, by_motion, by_motion and fixed.interval.low > moved.interval.high)


def _moved(pictures: Pictures, seed: int) -> Pictures:
    """Each clip shifted by an own number of rows and columns, round the edges."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, pictures.shape[-2:], size=(len(pictures), 2))
    return np.stack([np.roll(clip, tuple(shift), axis=(1, 2)) for clip, shift in zip(pictures, shifts, strict=True)])


def _one_frame(pictures: Pictures) -> npt.NDArray[np.float32]:
    return pictures[:, pictures.shape[1] // 2].reshape(len(pictures), -1)


def _differences(pictures: Pictures) -> npt.NDArray[np.float32]:
    return np.diff(pictures, axis=1).reshape(len(pictures), -1)


def _both(pictures: Pictures) -> npt.NDArray[np.float32]:
    """Both, with equal deviations: a picture's brightness would hide its small changes."""
    parts = [_one_frame(pictures), _differences(pictures)]
    return np.concatenate([part / max(float(part.std()), 1e-12) for part in parts], axis=1)


FEATURES: dict[str, Callable[[Pictures], npt.NDArray[np.float32]]] = {
    ONE_FRAME: _one_frame,
    DIFFERENCES: _differences,
    "both": _both,
}
