"""The temperature of one trained model, fitted on validation videos that its reported score does not rest on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import layout
from pipeline.data import manifest
from pipeline.evaluation.benchmark import TestSet, evaluate
from pipeline.evaluation.calibration import fit_temperature, negative_log_likelihood, tempered
from pipeline.evaluation.metrics import decisions
from pipeline.params import Params
from pipeline.system.files import write_text

if TYPE_CHECKING:
    import torch

FILE = "temperature.json"
SPLIT = "val"
#: Fewer videos say next to nothing about confidence.
FEWEST = 10


@dataclass(frozen=True)
class Temperature:
    """A temperature, or the reason why there is none.

    Attributes:
        value: T of p^(1/T), normalised over the classes (of several, over yes and no of each); 1 leaves probabilities
            as they are. None where nothing was fitted.
        videos: that it was fitted on.
        nll_before, nll_after: their mean negative log-likelihood [nats], as tested and at this temperature.
        reason: why there is no value; "" where there is one.
    """

    value: float | None = None
    videos: int = 0
    nll_before: float | None = None
    nll_after: float | None = None
    reason: str = ""

    def note(self) -> dict[str, object]:
        """The entry of the model's description; {} without a value."""
        if self.value is None:
            return {}
        return {"temperature": {"value": self.value, "split": SPLIT, "videos": self.videos}}


def temperature(
    params: Params,
    benchmark: str,
    model_dir: Path,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Temperature:
    """Fit on at most `evaluate.calibration_videos` validation videos, drawn with the seed, with the test's views."""
    how = params.evaluate_of(benchmark)
    if how.calibration_videos == 0:
        return Temperature(reason="evaluate.calibration_videos is 0")
    if how.split == SPLIT:
        return Temperature(reason="the score itself is that of the validation videos")
    if not has_labels(benchmark, SPLIT):
        return Temperature(reason="the benchmark has no labelled validation videos")
    videos = TestSet.load(benchmark, SPLIT).sample(how.calibration_videos, params.seed)
    answers = evaluate(params, benchmark, videos, model_dir, device=device, progress=progress).answers
    if not any(answer.probability is not None for answer in answers):
        return Temperature(reason="no validation video can be read")
    read, probability_VC, label_V = videos.read(answers)
    if len(read) < FEWEST:
        return Temperature(reason=f"{len(read)} validation videos are too few: {FEWEST} are needed")
    if videos.truth_VC is not None:
        # Each class is a decision of its own: its two probabilities are scaled, and all decisions together are fitted.
        probability_VC, label_V = decisions(probability_VC), label_V.reshape(-1).astype(np.int64)
    value = fit_temperature(probability_VC, label_V)
    before = negative_log_likelihood(probability_VC, label_V)
    after = negative_log_likelihood(tempered(probability_VC, value), label_V)
    return Temperature(value, len(read), before, after)


def has_labels(benchmark: str, split: str) -> bool:
    """Whether a split has a usable video with a label."""
    table = manifest.load(layout.manifest_dir(benchmark) / "manifest.parquet", ["label"], split=split)
    return any(label >= 0 for label in table["label"].to_pylist())


def write_temperature(path: Path, temperature: Temperature) -> None:
    """A temperature, or why there is none, as JSON."""
    write_text(path, json.dumps(asdict(temperature), indent=1) + "\n")


def read_temperature(path: Path) -> Temperature | None:
    """As :func:`write_temperature` wrote it; None where there is no file."""
    try:
        return Temperature(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
