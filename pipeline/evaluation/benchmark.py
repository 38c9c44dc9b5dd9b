"""Evaluating one benchmark: which videos, from where, with which model; the same on one process or many ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.arrays import U8
from pipeline.data.frame_step import Step, step_of, trained_step
from pipeline.errors import EverestError, InputError
from pipeline.evaluation.inference import Answer, gather, infer, names_once
from pipeline.evaluation.metrics import scores, several_scores
from pipeline.evaluation.views import video_views
from pipeline.multilabel.labels import Truth, multi_hot
from pipeline.params import Params
from pipeline.tracking import names

if TYPE_CHECKING:
    import torch

    from models.backbone import Backbone
    from models.info import ModelInfo
    from pipeline.distributed.groups import Ranks


@dataclass(frozen=True)
class TestSet:
    """The test videos with a label, in the manifest's order, readable or not.

    Attributes:
        ids, paths: of each video.
        labels: class number of each; of several the first.
        quarantined: why ingest refused a video, by its id.
        truth_VC: which classes each video has, in a set whose videos have several; else None.
    """

    __test__ = False  # not a test case, whatever its name suggests

    ids: list[str]
    paths: list[str]
    labels: list[int]
    quarantined: dict[str, str]
    truth_VC: Truth | None = None

    @classmethod
    def load(cls, benchmark: str, split: str = "test") -> TestSet:
        """One split of a benchmark's manifest.

        Raises:
            InputError: the split is empty or has no labels.
        """
        path = layout.manifest_dir(benchmark) / "manifest.parquet"
        columns = ["video_id", "path", "label", "status", "reason"]
        several = manifest.has_several(path)
        columns += [manifest.LABELS] if several else []
        rows = manifest.load(path, columns, split=split, status=None).to_pylist()
        labelled = [row for row in rows if row["label"] >= 0]
        if not labelled:
            raise InputError(
                f"{path} has {len(rows)} {split} videos and {len(labelled)} with a label: there is nothing to score. "
                "Cure: set evaluate.split to a split whose labels are public."
            )
        names_once([row["video_id"] for row in labelled])
        return cls(
            [row["video_id"] for row in labelled],
            [row["path"] for row in labelled],
            [row["label"] for row in labelled],
            {row["video_id"]: row["reason"] or "quarantined" for row in labelled if row["status"] != "ok"},
            multi_hot([row["labels"] for row in labelled], len(manifest.read_classes(path.with_name(manifest.CLASSES))))
            if several
            else None,
        )

    def sample(self, most: int, seed: int) -> TestSet:
        """At most so many of the videos that are not quarantined, drawn with a seed, in their order."""
        good = [number for number, video in enumerate(self.ids) if video not in self.quarantined]
        if len(good) > most:
            good = sorted(np.random.default_rng(seed).choice(good, most, replace=False).tolist())
        ids, paths, labels = ([column[number] for number in good] for column in (self.ids, self.paths, self.labels))
        truth_VC = None if self.truth_VC is None else self.truth_VC[good]
        return TestSet(ids, paths, labels, {}, truth_VC)  # type: ignore[arg-type]

    def hits(self, numbers: Sequence[int], probability_VC: np.ndarray) -> np.ndarray:
        """Whether the most probable class of these videos is theirs, or one of theirs."""
        best_V = probability_VC.argmax(axis=1)
        if self.truth_VC is not None:
            hit_V: np.ndarray = self.truth_VC[list(numbers), best_V]
            return hit_V
        return np.asarray(best_V == np.asarray([self.labels[number] for number in numbers]))

    def read(self, answers: Sequence[Answer]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The videos that were read: their numbers, probabilities [V, C] and labels [V], or truth [V, C] of several."""
        numbers = [number for number, answer in enumerate(answers) if answer.probability is not None]
        probability_VC = np.stack([p for answer in answers if (p := answer.probability) is not None])
        if self.truth_VC is not None:
            return numbers, probability_VC, self.truth_VC[numbers]
        return numbers, probability_VC, np.asarray([self.labels[number] for number in numbers], dtype=np.int64)


@dataclass(frozen=True)
class Outcome:
    """Answers for every test video, in the order of the test set, and what they cost.

    `cost`: multiply-adds and tokens of a clip as tracked, the mean over this process's clips where each has its own.
    """

    answers: list[Answer]
    clips: int
    seconds: float
    peak_memory_gib: float
    energy_wh: float | None
    cost: dict[str, float]


def evaluate(
    params: Params,
    benchmark: str,
    tests: TestSet,
    model_dir: Path,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run the model over the benchmark's test views from its cache.

    Raises:
        InputError: the model was made for other clips or classes than params.yaml says.
    """
    from pipeline.distributed.groups import choose_device
    from pipeline.efficiency.meters import EnergyMeter, peak_memory_gib

    data, how = params.benchmark(benchmark).data, params.evaluate_of(benchmark)
    info = as_tested(check_model(model_dir, params, benchmark), how.strategy)
    device = device or (ranks.device if ranks else choose_device(params.compute.device))
    model = tested_model(model_dir, how.strategy)
    read = reader(params, benchmark, tests)
    energy = EnergyMeter(device)
    began = time.perf_counter()
    local = infer(
        model,
        read,
        len(tests.ids),
        views=how.segments * how.crops,
        resolution=params.clip.resolution,
        batch=how.batch,
        device=device,
        precision=params.finetune.precision,
        workers=max(1, params.compute.loader_workers),
        ranks=ranks,
        progress=progress,
        several=info.multi_label,
    )
    answers = gather(local, len(tests.ids), data.classes, ranks)
    seconds = time.perf_counter() - began
    clips = sum(answer.probability is not None for answer in answers) * how.segments * how.crops
    return Outcome(answers, clips, seconds, peak_memory_gib(device), energy.read(), cost(info, model))


def tested_model(model_dir: Path, strategy: str | None) -> Backbone:
    """The trained weights, with the token strategy that they are tested with; None: that of their training."""
    from models.weights import load_model

    return load_model(model_dir) if strategy is None else load_model(model_dir, strategy=strategy)


def as_tested(info: ModelInfo, strategy: str | None) -> ModelInfo:
    """A model's record with the token strategy that it is tested with."""
    return info if strategy is None else replace(info, kwargs={**info.kwargs, "strategy": strategy})


def reader(params: Params, benchmark: str, tests: TestSet) -> Callable[[int], U8]:
    """Number of a test video -> its views, uint8 [X, T, s, s, 3]; an EverestError says why not."""
    from pipeline.data.clips.dataset import open_source

    how, step = params.evaluate_of(benchmark), step_of(params, benchmark)
    source = open_source(params, benchmark)
    row_of = {video: row for row, video in enumerate(source.ids)}

    def read(number: int) -> U8:
        video = tests.ids[number]
        if video in tests.quarantined:
            raise EverestError(tests.quarantined[video])
        if video not in row_of:
            raise EverestError(f"not in the {params.clip.source}")
        row = row_of[video]
        return video_views(
            lambda numbers: source.frames(row, numbers),
            source.num_frames(row),
            frames=params.clip.frames,
            step=source.step_in(row, step),
            segments=how.segments,
            crops=how.crops,
            grid=source.grid,
        )

    return read


def draw_examples(params: Params, benchmark: str, tests: TestSet, answers: list[Answer], folder: Path) -> None:
    """Kept tokens of the first test video that was answered rightly, and of the first that was not."""
    from pipeline.pictures.tokens import draw_kept, kept_tokens

    model = tested_model(layout.output_dir("finetune", benchmark), params.evaluate_of(benchmark).strategy).eval()
    read = reader(params, benchmark, tests)
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("rightly-answered", True), ("wrongly-answered", False)):
        for number, answer in enumerate(answers):
            if answer.probability is not None and bool(tests.hits([number], answer.probability[None])[0]) == wanted:
                view = read(number)[0]
                draw_kept(view, kept_tokens(model, view, params.clip.resolution), folder / f"{name}.png")
                break


def check_model(model_dir: Path, params: Params, benchmark: str) -> ModelInfo:
    """The record of a classifier that fits the benchmark: trained on its classes, for its clips and pixels.

    Raises:
        InputError: it is missing, or made for other clips, pixels or classes.
    """
    from pipeline.data.clips.dataset import open_source
    from pipeline.model_folder import describe

    info = describe(model_dir)
    data = params.benchmark(benchmark).data
    expected = {
        "num_classes": (info.num_classes, data.classes, "params.yaml"),
        "img_size": (info.pixels.resolution, params.clip.resolution, "params.yaml"),
        "num_frames": (info.frames, params.clip.frames, "params.yaml"),
        "clip_input": (info.kwargs.get("clip_input", "rgb"), params.clip.input, "params.yaml"),
        "frame_step": (_entry(trained_step(info)), step_of(params, benchmark).entry, "params.yaml"),
        "short_side": (info.pixels.short_side, open_source(params, benchmark).short_side, f"the {params.clip.source}"),
    }
    for key, (recorded, value, where) in expected.items():
        if recorded != value:
            raise InputError(
                f"{model_dir}/model.json: {key} = {recorded}, expected {value} of {where}. "
                f"Cure: `everest finetune {benchmark}` with these parameters first."
            )
    classes = manifest.class_names(layout.manifest_dir(benchmark), data.classes)
    for number, (trained, listed) in enumerate(zip(info.classes or (), classes, strict=False)):
        if trained != listed:
            raise InputError(
                f"{model_dir}/model.json: class {number} was trained as {trained!r}, the manifest's is {listed!r}. "
                f"Cure: `everest finetune {benchmark}` with the classes that the manifest lists now."
            )
    if info.multi_label != (several := manifest.has_several(layout.manifest_dir(benchmark) / "manifest.parquet")):
        listed, trained = ("several classes each", "one") if several else ("one class each", "several")
        raise InputError(
            f"{model_dir}/model.json: the model was trained for videos with {trained}, the manifest lists videos with "
            f"{listed}. Cure: `everest finetune {benchmark}` with the labels that the manifest lists now."
        )
    if info.classes is None:
        raise InputError(f"{model_dir}/model.json names no classes. Cure: `everest finetune {benchmark}`.")
    return info


def _entry(step: Step | None) -> int | str | None:
    return None if step is None else step.entry


def cost(info: ModelInfo, model: Backbone | None = None) -> dict[str, float]:
    """Multiply-adds and tokens a clip of a saved classifier: one view, one forward.

    Args:
        model: that has seen clips: where each has a budget of its own, their mean; else the predicted cost.
    """
    from models.cost import multiply_adds
    from pipeline.efficiency.clip_cost import counted_cost

    kwargs = info.kwargs
    per_clip = multiply_adds(
        info.architecture.split("_")[1],
        "finetune",
        frames=info.frames,
        resolution=info.pixels.resolution,
        strategy=kwargs["strategy"],
        keep_ratio=kwargs.get("keep_ratio", 1.0),  # left out where the strategy uses none
        num_classes=info.num_classes,
        head=kwargs.get("head", "mean"),
    )
    if model is not None:
        per_clip = counted_cost(per_clip, model, info.frames, info.pixels.resolution)
    return {
        names.GMACS_PER_CLIP: per_clip.multiply_adds / 1e9,
        names.TOKENS_PER_CLIP: float(per_clip.encoder_tokens),
    }


def scored(outcome: Outcome, tests: TestSet, draws: int, seed: int) -> dict[str, float]:
    """The scores of an outcome under their tracked names (`eval/top1`, or `eval/map` of several classes, ...)."""
    _, probability_VC, truth = tests.read(outcome.answers)
    score = scores if tests.truth_VC is None else several_scores
    return score(probability_VC, truth, len(tests.ids), draws, seed)


def within_budget(answers: list[Answer], tests: TestSet, budget: float, benchmark: str) -> None:
    """Fail where more test videos than the budget allows could not be read.

    Raises:
        EverestError: naming count, budget and the first reasons.
    """
    failed = [(video, a.reason) for video, a in zip(tests.ids, answers, strict=True) if a.probability is None]
    if len(failed) == len(answers):
        raise EverestError(
            f"{benchmark}: none of {len(answers)} test videos can be read ({failed[0][0]}: {failed[0][1]}): there is "
            "no score. Cure: fetch them again with `everest download`."
        )
    if len(failed) > budget * len(answers):
        shown = "; ".join(f"{video}: {reason}" for video, reason in failed[:3])
        raise EverestError(
            f"{benchmark}: {len(failed)} of {len(answers)} test videos cannot be read, more than "
            f"evaluate.failure_budget = {budget} allows ({shown}). A score over the rest would not be the benchmark's. "
            "Cure: fetch them again with `everest download`, or raise the budget and say so beside the score."
        )
