"""One model tested at several token budgets: accuracy beside what a clip costs, on a sample of the test videos.

Says too how many of the tested model's errors turn right when the tokens that it drops are put back, and how many of
its hits are lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from pipeline.evaluation.benchmark import TestSet, cost, reader
from pipeline.evaluation.inference import Answer, autocast, read_groups
from pipeline.evaluation.metrics import average_views, share_interval
from pipeline.multilabel.precision import mean_average_precision, precision_interval
from pipeline.params import Params
from pipeline.strategies import strategy_facts
from pipeline.system.files import write_text
from pipeline.system.text import storable
from pipeline.tracking import names

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from models.info import ModelInfo

FILE = "budgets.json"


@dataclass(frozen=True)
class Budget:
    """The test at one keep ratio; shares in [0, 1], `clips_per_second` of the forward passes alone."""

    keep_ratio: float
    tokens: int
    gmacs: float
    top1: float
    top1_ci_low: float
    top1_ci_high: float
    clips_per_second: float


@dataclass(frozen=True)
class Sweep:
    """The tests by rising keep ratio.

    Attributes:
        own: keep ratio that the model was trained and tested with.
        videos: ids of the sample; `of_videos` were readable.
        seed: that drew it.
        errors, put_right: the tested model's wrong answers in the sample, and how many are right with all tokens. Of
            several classes an answer is the most probable one, right where it is one of the video's.
        hits, lost: its right answers, and how many are wrong with all tokens.
        device: that measured the rate.
        called: what `top1` of the budgets holds: top-1, or the mAP of videos with several classes.
    """

    budgets: list[Budget]
    own: float
    videos: list[str]
    of_videos: int
    seed: int
    errors: int
    put_right: int
    hits: int
    lost: int
    device: str
    called: str = "top-1"


@dataclass(frozen=True)
class NoSweep:
    """Why a model was not tested at other budgets."""

    reason: str


class _Adjustable(Protocol):
    """What a sweep turns: a classifier's budget."""

    strategy: str
    keep_ratio: float
    score_share: float | None

    def __call__(self, clip_BCTHW: torch.Tensor) -> torch.Tensor: ...


def sweep(
    params: Params,
    benchmark: str,
    tests: TestSet,
    answers: list[Answer],
    model_dir: Path,
    info: ModelInfo,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep | NoSweep:
    """Test a finished classifier at `evaluate.budgets`, at its own keep ratio and with all tokens.

    Each video's frames are read once, and all budgets see the same pixels. A model with a budget by clip is tested at
    fixed ones; its errors are those of its own test. Without a sweep, the reason: no budgets are wanted, the
    model keeps all tokens or decides by clip how many, or no video of the sample can be read.

    Args:
        answers: of the test, for each of `tests`.
    """
    from models.weights import load_model
    from pipeline.efficiency.meters import device_name

    how = params.evaluate_of(benchmark)
    if not how.budgets:
        return NoSweep("evaluate.budgets is empty")
    model = cast("_Adjustable", load_model(model_dir).to(device).eval())
    facts = strategy_facts()[model.strategy]
    if facts.planned_as:
        return NoSweep(f"{model.strategy} decides by clip how many tokens it keeps, so the model has no budget to turn")
    if not facts.uses_keep_ratio:
        return NoSweep(
            f"fine-tuning and test keep all tokens (finetune.strategy is {model.strategy}), so the model has no budget "
            "to turn"
        )
    trained_ratio, model.score_share = model.keep_ratio, None
    sample, ratios = tests.sample(how.budget_videos, params.seed), sorted({*how.budgets, trained_ratio, 1.0})
    read = reader(params, benchmark, sample)
    probabilities, seconds, clips = _test(
        model, read, sample, ratios, params, benchmark, device, progress, info.multi_label
    )
    if not probabilities:
        return NoSweep("no video of the sample can be read")
    numbers = sorted(probabilities)
    before = _hits(tests, answers, sample.ids)[numbers]
    probability_RVC = np.stack([probabilities[number] for number in numbers], axis=1)
    all_tokens_V = sample.hits(numbers, probability_RVC[-1])
    rows = []
    for ratio, probability_VC, spent in zip(ratios, probability_RVC, seconds, strict=True):
        spends = cost(replace(info, kwargs={**info.kwargs, "keep_ratio": ratio}))
        score, (low, high) = _score(sample, numbers, probability_VC, how.bootstrap, params.seed)
        tokens, gmacs = int(spends[names.TOKENS_PER_CLIP]), spends[names.GMACS_PER_CLIP]
        rows.append(Budget(ratio, tokens, gmacs, score, low, high, clips / spent))
    return Sweep(
        rows,
        trained_ratio,
        [sample.ids[number] for number in numbers],
        len(tests.ids) - len(tests.quarantined),
        params.seed,
        errors=int((~before).sum()),
        put_right=int((~before & all_tokens_V).sum()),
        hits=int(before.sum()),
        lost=int((before & ~all_tokens_V).sum()),
        device=device_name(device),
        called="mAP" if info.multi_label else "top-1",
    )


def write_sweep(path: Path, result: Sweep | NoSweep) -> None:
    """All of a sweep, or why there is none, as JSON."""
    write_text(path, json.dumps(storable(asdict(result)), indent=1) + "\n")


def read_sweep(path: Path) -> Sweep | NoSweep | None:
    """What :func:`write_sweep` wrote; None where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if "reason" in content:
        return NoSweep(**content)
    return Sweep(**{**content, "budgets": [Budget(**row) for row in content["budgets"]]})


def _hits(tests: TestSet, answers: list[Answer], sample: Sequence[str]) -> np.ndarray:
    """Whether the test answered each video of a sample rightly; what it could not read is no hit."""
    number_of = {video: number for number, video in enumerate(tests.ids)}
    given = [(answers[number_of[video]].probability, number_of[video]) for video in sample]
    return np.array([p is not None and bool(tests.hits([number], p[None])[0]) for p, number in given], dtype=bool)


def _score(
    sample: TestSet, numbers: Sequence[int], probability_VC: np.ndarray, draws: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """What a test is compared by, with its interval: top-1, or the mean average precision of several classes."""
    if sample.truth_VC is None:
        right_V = sample.hits(numbers, probability_VC)
        return float(right_V.mean()), share_interval(right_V, draws, seed)
    truth_VC = sample.truth_VC[list(numbers)]
    return mean_average_precision(probability_VC, truth_VC), precision_interval(probability_VC, truth_VC, draws, seed)


def _test(
    model: _Adjustable,
    read: Callable[[int], np.ndarray],
    sample: TestSet,
    ratios: Sequence[float],
    params: Params,
    benchmark: str,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
    several: bool,
) -> tuple[dict[int, list[np.ndarray]], list[float], int]:
    """Video number -> its probabilities at each ratio; seconds of each ratio's forward passes; clips."""
    import torch

    from pipeline.data.pixels.normalise import model_pixels

    how = params.evaluate_of(benchmark)
    views = how.segments * how.crops
    probabilities: dict[int, list[np.ndarray]] = {}
    seconds, clips, warm = [0.0] * len(ratios), 0, False
    groups = read_groups(read, len(sample.ids), max(1, how.batch // views), None, max(1, params.compute.loader_workers))
    with torch.inference_mode(), autocast(device, params.finetune.precision):
        for numbers, results in groups:
            videos = {n: v for n, v in zip(numbers, results, strict=True) if not isinstance(v, str)}
            if not videos:
                continue
            pixels = torch.cat(
                [model_pixels(torch.from_numpy(v), params.clip.resolution, device) for v in videos.values()]
            )
            parts = pixels.split(how.batch)
            clips += len(pixels)
            probabilities |= {number: [] for number in videos}
            for place, ratio in enumerate(ratios):
                model.keep_ratio = ratio
                if not warm:  # a first pass sets up what later ones find ready
                    model(parts[0])
                began = time.perf_counter()
                logits = torch.cat([model(part) for part in parts]).float().cpu().numpy()
                seconds[place] += time.perf_counter() - began
                for number, logits_XC in zip(videos, np.split(logits, len(videos)), strict=True):
                    probabilities[number].append(average_views(logits_XC, several))
            warm = True
            if progress is not None:
                progress(len(probabilities), len(sample.ids))
    return probabilities, seconds, clips
