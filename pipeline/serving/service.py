"""Answers about videos of strangers: each read within limits, classified as `everest predict` does."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import Rule
from pipeline.data.video import VideoError
from pipeline.errors import InputError
from pipeline.multilabel.labels import said
from pipeline.serving.limits import FOLDER, ServingLimits
from pipeline.system.text import visible

if TYPE_CHECKING:
    from torch import nn

    from models.info import ModelInfo
    from pipeline.data.arrays import U8
    from pipeline.data.ingest.reading import Accepted
    from pipeline.inference.isolated import IsolatedViews

#: Clips that go through the model together, as in `everest predict`.
BATCH = 32


@dataclass(frozen=True)
class Asked:
    """One video of a request: the path of a file, or its content in base64."""

    path: str | None = None
    content: str | None = None


@dataclass(frozen=True)
class Classified:
    """The most probable class of a video, and the probabilities of all by their names.

    `labels` are the classes from one half on, where videos may have several; else None.
    """

    predicted: str
    probability: float
    probabilities: dict[str, float]
    labels: list[str] | None = None


class Service:
    """A model that answers, from several threads at once.

    Args:
        model: as for `everest predict`.

    Raises:
        InputError: no such model, or one without names of classes or frame step.
    """

    def __init__(self, model: str, limits: ServingLimits) -> None:
        from pipeline.data.frame_step import trained_step
        from pipeline.data.ingest.isolated import ingest_params
        from pipeline.distributed.groups import choose_device
        from pipeline.inference.isolated import IsolatedViews
        from pipeline.inference.models import load
        from pipeline.inference.predict import class_names, told_apart

        rules = ingest_params()
        cost = Limits(min(limits.decode_seconds, rules.deadline_seconds), Limits.of(rules).memory_bytes)
        folder, info, network = load(model)
        self._limits = limits
        self._info: ModelInfo = info
        self._names = told_apart(class_names(info, folder))
        step = trained_step(info)
        if step is None:
            raise InputError(f"{folder}/model.json names no frame_step. Cure: `everest convert-checkpoint` with it.")
        self._how = {
            "frames": info.frames,
            "segments": info.views.segments,
            "crops": info.views.crops,
            "grid": info.views.grid,
        }
        self._step = step
        self._device = choose_device("auto")
        self._network: nn.Module = network.to(self._device).eval()
        self._reader: IsolatedViews = IsolatedViews(cost, 2, Rule(rules.min_frames, rules.max_repeated_run))

    def answer(self, asked: Sequence[Asked]) -> list[Classified]:
        """Classify the videos of one request.

        Raises:
            InputError: one of them is refused or cannot be read: which, and why.
            UnavailableError: no video can be decoded here.
        """
        from pipeline.evaluation.inference import infer

        if not 1 <= len(asked) <= self._limits.videos:
            raise InputError(
                f"{len(asked)} videos in one request: expected 1 to {self._limits.videos}. Cure: send them in several."
            )
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(self._file(one, row)) for row, one in enumerate(asked)]
            answers = infer(
                self._network,
                lambda row: self._views(files[row], asked[row]),
                len(files),
                views=self._how["segments"] * self._how["crops"],
                resolution=self._info.pixels.resolution,
                batch=BATCH,
                device=self._device,
                temperature=self._info.temperature,
                several=self._info.multi_label,
            )
        results = []
        for row in range(len(files)):
            probability = answers[row].probability
            if probability is None:
                raise InputError(f"video {row}: {answers[row].reason}")
            best = int(probability.argmax())
            by_name = dict(zip(self._names, map(float, probability), strict=True))
            labels = list(said(probability, self._names)) if self._info.multi_label else None
            results.append(Classified(self._names[best], float(probability[best]), by_name, labels))
        return results

    def views(self, file: Path) -> U8:
        """What the model is shown of a file that is trusted to be within the limits, uint8 [X, T, s, s, 3].

        Raises:
            VideoError: it cannot be read.
        """
        return self._views(file, Asked(path=file.name))

    def close(self) -> None:
        """End the decoding processes."""
        self._reader.close()

    @contextlib.contextmanager
    def _file(self, asked: Asked, row: int) -> Iterator[Path]:
        """The file of a video, one that is removed afterwards where its content was sent."""
        if (asked.path is None) == (asked.content is None):
            raise InputError(f"video {row}: expected either `video` (a path) or `base64`. Cure: send one of them.")
        if asked.path is not None:
            yield self._allowed(asked.path, row)
            return
        content = self._decoded(asked.content or "", row)
        with tempfile.NamedTemporaryFile(prefix="everest-serve-") as file:
            file.write(content)
            file.flush()
            yield Path(file.name)

    def _allowed(self, named: str, row: int) -> Path:
        folder = self._limits.folder
        if folder is None:
            raise InputError(f"video {row}: this server takes no paths. Cure: send base64, or set {FOLDER} for it.")
        shown = visible(named[:200])
        try:
            path = (folder / named).resolve()
        except (ValueError, OSError, RuntimeError):  # a NUL, a name too long, links in a circle
            raise InputError(f"video {row}: {shown!r} is no path.") from None
        # What lies outside is refused in the same words whether it exists or not.
        if not path.is_relative_to(folder):
            raise InputError(f"video {row}: {shown!r} is outside the folder that videos are served from.")
        try:
            size = path.stat().st_size if path.is_file() else None
        except (ValueError, OSError):
            size = None
        if size is None or not os.access(path, os.R_OK):
            raise InputError(f"video {row}: {shown!r} does not exist there, or is no file that can be read.")
        self._check_size(size, row)
        return path

    def _decoded(self, content: str, row: int) -> bytes:
        self._check_size(len(content) * 3 // 4 - 2, row)
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"video {row}: this is not base64: {error}.") from None

    def _check_size(self, size: int, row: int) -> None:
        if size > self._limits.megabytes * 1e6:
            raise InputError(
                f"video {row} has {size / 1e6:.1f} MB, allowed are {self._limits.megabytes:g}. Cure: send a part of it."
            )

    def _views(self, file: Path, asked: Asked) -> U8:
        try:
            return self._reader.read(file, self._how, self._step, self._info.pixels.short_side, self._check_length)
        except VideoError as error:
            # The server's own paths are nobody else's business.
            name = visible(asked.path) if asked.path is not None else "the video"
            raise VideoError(error.reason, str(error).replace(str(file), name)) from None
        finally:
            self._reader.forget(file)

    def _check_length(self, video: Accepted) -> None:
        seconds = video.frames / video.fps if video.fps else 0.0
        if seconds > self._limits.seconds:
            raise VideoError(
                "too_long", f"it lasts {seconds:.1f} s, allowed are {self._limits.seconds:g}. Cure: send a part of it."
            )
