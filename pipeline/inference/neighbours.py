"""The nearest neighbours of a video among embedded ones: those whose features point the same way.

Features are centred by the mean of all videos first: what they have in common says nothing about which are alike.

Shapes: V videos, D width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.inference.features import Features, read
from pipeline.system.files import sha256_of

if TYPE_CHECKING:
    import torch

    from models.backbone import Backbone
    from pipeline.inference.clips import ClipRule, Clips, Videos


@dataclass(frozen=True)
class Neighbour:
    """A video near the one that was asked for; `similarity` is the cosine of their centred features, -1 to 1."""

    video: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Neighbours:
    """The videos nearest to `video`, the most similar first, and a picture of them."""

    video: str
    nearest: list[Neighbour]
    picture: str


def neighbours(
    videos: Videos,
    file: Path,
    video: Path,
    network: Backbone,
    rule: ClipRule,
    device: torch.device,
    top: int,
    picture: Path,
) -> Neighbours:
    """The neighbours of a video among those in a file of features, and their picture.

    Args:
        videos: those of the file; their frames are read for the picture.
        video: one of them or another one, which is embedded.

    Raises:
        InputError: the video cannot be read, there are no others, or the picture cannot be written.
    """
    from pipeline.data.ingest.isolated import IsolatedFrames
    from pipeline.data.video import VideoError
    from pipeline.inference.clips import read_clips
    from pipeline.pictures.neighbours import draw_neighbours

    with IsolatedFrames.by_params(1) as reader:
        try:
            clips = read_clips(reader, video, rule)
        except VideoError as error:
            raise InputError(f"{video}: {error}. Cure: a video that plays; `everest ingest` checks a folder.") from None
    names, labels, means_VD = by_video(read(file))
    query_D = _embedded(network, clips, device)
    real, content = os.path.realpath(video), sha256_of(video)
    # Ids of a benchmark are no paths: its videos are known by their bytes.
    itself = {name for name, its in zip(videos.names, videos.contents, strict=True) if its == content}
    others = [place for place, name in enumerate(names) if os.path.realpath(name) != real and name not in itself]
    if not others:
        raise InputError(f"{video} is the only video that was embedded. Cure: embed others beside it.")
    order, similarity = nearest(query_D, means_VD[others])
    chosen = [Neighbour(names[others[p]], labels[others[p]], round(float(similarity[p]), 4)) for p in order[:top]]
    number = {name: place for place, name in enumerate(videos.names)}
    shown = [(one, videos.read(number[one.video]).pixels_GTHWC[0]) for one in chosen]
    rows = [(str(video), clips.pixels_GTHWC[0])]
    rows += [(_caption(one), pixels) for one, pixels in shown]
    draw_neighbours(rows, picture)
    return Neighbours(str(video), chosen, str(picture))


def nearest(query_D: np.ndarray, means_VD: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Videos by falling similarity, and the similarity of each [V]."""
    centre_D = means_VD.mean(axis=0)
    query_D, means_VD = query_D - centre_D, means_VD - centre_D
    lengths_V = np.linalg.norm(means_VD, axis=1) * np.linalg.norm(query_D)
    similarity = means_VD @ query_D / np.maximum(lengths_V, 1e-12)
    order: list[int] = np.argsort(-similarity, kind="stable").tolist()
    return order, similarity


def by_video(features: Features) -> tuple[list[str], list[str], np.ndarray]:
    """Names and labels of the videos, and the mean [V, D] of the features of each one's clips."""
    names = features.column("video")
    first = {name: place for place, name in reversed(list(enumerate(names)))}
    order = sorted(first, key=lambda name: first[name])
    number = {name: place for place, name in enumerate(order)}
    place_R = np.array([number[name] for name in names])
    sums = np.zeros((len(order), features.values.shape[1]))
    np.add.at(sums, place_R, features.values)
    labels = features.column("label")
    return order, [labels[first[name]] for name in order], sums / np.bincount(place_R)[:, None]


def _embedded(network: Backbone, clips: Clips, device: torch.device) -> np.ndarray:
    import torch

    from pipeline.data.pixels.normalise import model_pixels
    from pipeline.inference.pooling import features

    with torch.inference_mode():
        size = network.kwargs["img_size"]
        values, _ = features(
            network.to(device), model_pixels(torch.from_numpy(clips.pixels_GTHWC), size, device), "clip"
        )
    mean: np.ndarray = values.mean(0).float().cpu().numpy()
    return mean


def _caption(one: Neighbour) -> str:
    label = f"{one.label}  ·  " if one.label else ""
    return f"{one.similarity:.2f}  ·  {label}{one.video}"
