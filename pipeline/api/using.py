"""Using a model: its features, its predictions, and the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from models.info import ModelInfo
    from pipeline.inference.embed import Embedding
    from pipeline.inference.pooling import Pool
    from pipeline.inference.predict import Predictions
    from pipeline.timeline.timeline import Timelines

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be used.

    Attributes:
        folder: where it lies.
        info: what its model.json says: clips, pixels, classes, views.
        network: an `EverestClassifier` or `EverestAutoencoder`, in evaluation mode; both follow timm's conventions for
            backbones (`models.backbone`).
        sha256: of its weights.
    """

    folder: Path
    info: ModelInfo
    network: Any
    sha256: str

    def pixels(self, frames_BTHWC: np.ndarray) -> Tensor:
        """Square frames, uint8 RGB [B, T, s, s, 3], as the network takes them: normalised [B, 3, T, size, size]."""
        import torch

        from pipeline.data.pixels.normalise import model_pixels

        device = next(self.network.parameters()).device
        return model_pixels(torch.from_numpy(frames_BTHWC), self.info.pixels.resolution, device)


def embed(
    videos: Sequence[str | Path],
    model: str,
    *,
    out: Path | str | None = None,
    pool: Pool = "clip",
    clips: int | None = None,
    frame_step: int | None = None,
    keep: float | None = None,
    batch: int = 32,
    device: Device = "auto",
    near: str | Path | None = None,
    top: int = 8,
    picture: Path | str = Path("outputs/embed/neighbours.png"),
) -> Embedding:
    """Features of videos: `everest embed` (`pipeline.inference.embed.embed`).

    Args:
        videos: files, folders that are searched, or the name of a benchmark of params.yaml.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        out: a .parquet or .npz file; what it holds already is not computed again.
        pool: what a row holds: the clip's features, one mean for each time slot, or every token.
        clips, frame_step, keep: clips over a video's length, frames between two of a clip, share of tokens that the
            encoder sees; the model's own if None.
        batch: clips that go through the model together.
        near: a video whose `top` nearest neighbours are drawn to `picture`.

    Raises:
        InputError: no such model or video, options that it cannot have, a file that cannot be written.
        Interrupted: stopped by Ctrl-C; what was computed is kept.
    """
    from pipeline.inference.embed import embed as compute

    return compute(
        videos,
        model,
        out=out,
        pool=pool,
        clips=clips,
        frame_step=frame_step,
        keep=keep,
        batch=batch,
        device=device,
        near=near,
        top=top,
        picture=picture,
    )


def predict(
    videos: Sequence[str | Path],
    model: str,
    *,
    out: Path | str | None = None,
    pictures: Path | str | None = None,
    batch: int = 32,
    segments: int | None = None,
    crops: int | None = None,
    frame_step: int | None = None,
    device: Device = "auto",
) -> Predictions:
    """Classify videos: `everest predict` (`pipeline.inference.predict.predict`).

    Args:
        videos: files, or folders that are searched.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        out: a .csv, .json or .parquet file for all probabilities.
        pictures: a folder for a picture of each video's kept tokens.
        batch: clips that go through the model together.
        segments, crops, frame_step: views; by default those that the model was tested with.

    Raises:
        InputError: no such model, no video, an unknown output format, a folder that cannot be written to.
    """
    from pipeline.inference.predict import predict as classify

    return classify(
        [str(video) for video in videos],
        model,
        None if out is None else str(out),
        None if pictures is None else str(pictures),
        batch,
        segments,
        crops,
        frame_step,
        device,
    )


def timeline(
    videos: Sequence[str | Path],
    model: str,
    *,
    out: Path | str = Path("outputs/timeline"),
    stride: float | None = None,
    threshold: float = 0.5,
    shortest: float = 0.0,
    crops: int | None = None,
    frame_step: int | None = None,
    batch: int = 4,
    device: Device = "auto",
) -> Timelines:
    """What long videos show when: `everest predict --timeline` (`pipeline.timeline.timeline.timeline`).

    Args:
        videos: files, or folders that are searched.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        out: a folder for a table and a plot of each video, and for segments.csv.
        stride: seconds from one window to the next; half a window by default.
        threshold: probability from which on the most probable class makes a segment.
        shortest: seconds; shorter segments are left out.
        crops, frame_step: of a window; by default those that the model was tested with.
        batch: clips that go through the model together.

    Raises:
        InputError: no such model, no video, options out of bounds, a folder that cannot be written to.
    """
    from pipeline.timeline.timeline import timeline as classify

    return classify(
        [str(video) for video in videos],
        model,
        str(out),
        stride=stride,
        threshold=threshold,
        shortest=shortest,
        crops=crops,
        frame_step=frame_step,
        batch=batch,
        device=device,
    )


def load(model: str | Path, *, device: Device = "auto", **overrides: Any) -> LoadedModel:
    """A model by its name, with its network on a device.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        overrides: arguments of the network that decide no weights, such as `strategy="none"` or `keep_ratio=1.0`.

    Raises:
        InputError: no such model, files that are broken or do not belong together, an argument that it cannot have.
    """
    from pipeline.distributed.groups import choose_device
    from pipeline.inference.models import load_any
    from pipeline.model_folder import sha256

    folder, info, network = load_any(str(model), **overrides)
    return LoadedModel(folder, info, network.to(choose_device(device)), sha256(folder))
