"""`everest predict`: class probabilities of videos from a registered model, a run's or a folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.video import VideoError
from pipeline.data.video.listing import find_videos
from pipeline.errors import InputError
from pipeline.multilabel.labels import SEPARATOR, said
from pipeline.system.csv_files import Writer
from pipeline.system.files import check_file, make_folder
from pipeline.system.text import shortened, storable

if TYPE_CHECKING:
    from models.info import ModelInfo
    from pipeline.evaluation.inference import Answer
    from pipeline.inference.isolated import IsolatedViews

log = logging.getLogger(__name__)

FORMATS = (".csv", ".json", ".parquet")
#: Columns of the output before those of the classes.
FIXED_COLUMNS = ("video", "predicted", "reason")


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a video: its number, name and probability.

    `labels` are the classes from one half on, of a model for videos with several classes; else ().
    """

    video: str
    predicted: int
    class_name: str
    probability: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A video without a prediction, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The result of :func:`predict`.

    Attributes:
        predictions: of the videos that could be read, in order.
        failed: the others.
        videos_total: that were asked for.
        model: the folder of the model.
        seconds: that it took.
        classes: names by class number.
        probabilities: float32 [predictions, classes]; they add up to 1, but where `several`.
        temperature: that they were brought to; None where the model has none, or it was not wanted.
        several: a video may have several classes, and each has a probability of its own.
    """

    predictions: list[Prediction]
    failed: list[Failed]
    videos_total: int
    model: str
    seconds: float
    classes: tuple[str, ...]
    probabilities: np.ndarray
    temperature: float | None = None
    several: bool = False

    @property
    def videos_ok(self) -> int:
        return len(self.predictions)

    def as_dict(self) -> dict[str, object]:
        """What the command prints: predictions (video, predicted, class, probability), failed ones, counts.

        Of several classes `labels` are those from one half on, with `|` between them, and `probabilities` those of all.
        """
        rows: list[dict[str, object]] = [
            {"video": one.video, "predicted": one.predicted, "class": one.class_name, "probability": one.probability}
            for one in self.predictions
        ]
        if self.several:
            for row, one, values in zip(rows, self.predictions, self.probabilities.tolist(), strict=True):
                row["labels"] = SEPARATOR.join(one.labels)
                row["probabilities"] = dict(zip(told_apart(self.classes), values, strict=True))
        return {
            "predictions": rows,
            "failed": [asdict(one) for one in self.failed],
            "videos_ok": self.videos_ok,
            "videos_total": self.videos_total,
            "model": self.model,
            "temperature": self.temperature,
            "seconds": self.seconds,
        }


def predict(
    videos: Sequence[str | Path],
    model: str,
    out: Path | str | None = None,
    pictures: Path | str | None = None,
    batch: int = 32,
    segments: int | None = None,
    crops: int | None = None,
    frame_step: int | None = None,
    device: str = "auto",
    temperature: bool = True,
) -> Predictions:
    """Classify videos.

    Args:
        videos: files, or folders that are searched for videos.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        out: a .csv, .json or .parquet file for all probabilities.
        pictures: a folder for a picture of each video's kept tokens.
        batch: clips that go through the model together.
        segments, crops, frame_step: views; by default those that the model was tested with.
        temperature: bring probabilities to the temperature that was fitted on validation videos and stands in
            model.json, as serving does; nothing changes where none was fitted. The predicted class never changes.

    Returns:
        The predictions. A video that cannot be read within the limits of params.yaml's group `ingest` is among the
        failed ones and costs no other its prediction.

    Raises:
        InputError: no such model, no video, an unknown output format, a folder that cannot be written to.
    """
    files = find_videos([str(video) for video in videos])
    _check_places(out, pictures)
    if batch < 1:
        raise InputError(f"batch = {batch}: expected at least 1. Cure: --batch 32.")
    from pipeline.inference.isolated import IsolatedViews

    with IsolatedViews.by_params() as reader:
        return _predict(files, reader, model, out, pictures, batch, segments, crops, frame_step, device, temperature)


def _predict(
    files: Sequence[Path],
    reader: IsolatedViews,
    model: str,
    out: Path | str | None,
    pictures: Path | str | None,
    batch: int,
    segments: int | None,
    crops: int | None,
    frame_step: int | None,
    device: str,
    temperature: bool,
) -> Predictions:
    from pipeline.data.frame_step import trained_step
    from pipeline.distributed.groups import choose_device
    from pipeline.evaluation.inference import infer
    from pipeline.inference.models import load
    from pipeline.pictures.tokens import draw_kept, kept_tokens
    from pipeline.system.progress import Bar, wanted

    folder, info, network = load(model)
    names = class_names(info, folder)
    step = trained_step(info, frame_step)
    if step is None:
        raise InputError(f"{folder}/model.json names no frame_step. Cure: say it with --frame-step (demo: 1).")
    how = {
        "frames": info.frames,
        "segments": segments or info.views.segments,
        "crops": crops or info.views.crops,
        "grid": info.views.grid,
    }
    resolution, short_side = info.pixels.resolution, info.pixels.short_side
    began = time.perf_counter()
    answers = infer(
        network,
        lambda number: reader.read(files[number], how, step, short_side),
        len(files),
        views=how["segments"] * how["crops"],
        resolution=resolution,
        batch=batch,
        device=choose_device(device),  # type: ignore[arg-type]
        temperature=info.temperature if temperature else None,
        progress=Bar("predict") if wanted() else None,
        several=info.multi_label,
    )
    rows = []
    for number, file in enumerate(files):
        probability = answers[number].probability
        if probability is not None:
            best = int(probability.argmax())
            labels = said(probability, names) if info.multi_label else ()
            rows.append(Prediction(str(file), best, names[best], float(probability[best]), labels))
    failed = [Failed(str(file), answers[n].reason) for n, file in enumerate(files) if answers[n].probability is None]
    if out is not None:
        write(Path(out), [(str(file), answers[n]) for n, file in enumerate(files)], names, info.multi_label)
    for number, file in enumerate(files if pictures is not None else ()):
        # The number keeps equal names of different folders apart, and those that differ only at their ends.
        target = Path(str(pictures)) / f"{number:05d}-{shortened(file.stem, 200)}.png"
        try:
            if answers[number].probability is not None:
                view = reader.read(file, {**how, "segments": 1, "crops": 1}, step, short_side)[0]
                draw_kept(view, kept_tokens(network, view, resolution), target)
        except VideoError as error:
            log.warning("no picture of %s: %s", file, error)
    known = [answer.probability for _, answer in sorted(answers.items()) if answer.probability is not None]
    return Predictions(
        predictions=rows,
        failed=failed,
        videos_total=len(files),
        model=str(folder),
        seconds=round(time.perf_counter() - began, 3),
        classes=names,
        probabilities=np.stack(known) if known else np.zeros((0, len(names)), np.float32),
        temperature=info.temperature if temperature else None,
        several=info.multi_label,
    )


def _check_places(out: Path | str | None, pictures: Path | str | None) -> None:
    """Refuse before the work what could not be written after it."""
    if out is not None and Path(out).suffix not in FORMATS:
        raise InputError(f"out = {str(out)!r}: its suffix must be one of {', '.join(FORMATS)}. Cure: name it so.")
    if out is not None:
        check_file(Path(out))
    if pictures is not None:
        make_folder(Path(pictures))


def class_names(info: ModelInfo, folder: Path) -> tuple[str, ...]:
    """Names by class number, the model's own.

    Raises:
        InputError: it has none.
    """
    if info.classes is None:
        raise InputError(
            f"{folder}/model.json names none of the model's {info.num_classes} classes. Cure: `everest "
            f"convert-checkpoint {folder} NEW_FOLDER --classes FILE` with one name on each line, in the order that it "
            "was trained with."
        )
    return tuple(storable(name) for name in info.classes)


def write(path: Path, rows: Sequence[tuple[str, Answer]], names: Sequence[str], several: bool = False) -> None:
    """Write all probabilities: one row for each video, one column for each class.

    A video that could not be read has the reason in place of numbers. The file appears whole or not at all.

    Args:
        several: `predicted` are the classes from one half on, with `|` between them, and not the most probable one.
    """
    from pipeline.system.files import atomic_path

    def best_of(answer: Answer) -> str | None:
        if answer.probability is None:
            return None
        return SEPARATOR.join(said(answer.probability, names)) if several else names[int(answer.probability.argmax())]

    columns = told_apart([f"class {name}" if name in FIXED_COLUMNS else name for name in names])
    with atomic_path(path) as temporary:
        if path.suffix == ".json":
            value = [
                {"video": video, "predicted": best_of(a), "reason": a.reason, "probabilities": _numbers(a, names)}
                for video, a in rows
            ]
            temporary.write_text(json.dumps(storable(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        elif path.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = Writer(file)
                writer.row([*FIXED_COLUMNS, *columns])
                for video, a in rows:
                    numbers = [""] * len(names) if a.probability is None else [f"{x:.6f}" for x in a.probability]
                    writer.row([video, best_of(a) or "", a.reason, *numbers])
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            table: dict[str, pa.Array] = {
                "video": pa.array([storable(video) for video, _ in rows], pa.string()),
                "predicted": pa.array([best_of(a) for _, a in rows], pa.string()),
                "reason": pa.array([storable(a.reason) for _, a in rows], pa.string()),
            }
            for number, column in enumerate(columns):
                values = [None if a.probability is None else float(a.probability[number]) for _, a in rows]
                table[column] = pa.array(values, pa.float32())
            pq.write_table(pa.table(table), temporary)


def _numbers(answer: Answer, names: Sequence[str]) -> dict[str, float] | None:
    if answer.probability is None:
        return None
    return dict(zip(told_apart(names), map(float, answer.probability), strict=True))


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of columns: one that is there already gets its number, so that none replaces another."""
    columns: dict[str, None] = {}
    for number, name in enumerate(names):
        column = name
        while column in columns or (column != name and column in names):
            column = f"{column} ({number})"
        columns[column] = None
    return list(columns)
