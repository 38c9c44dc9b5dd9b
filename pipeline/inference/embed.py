"""`everest embed`: features of videos from a pre-training model or a classifier, as a file with a row for each clip.

Shapes: B clips, D width, S slots, N tokens of a clip.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from pipeline.errors import InputError, Interrupted
from pipeline.inference.pooling import Pool
from pipeline.system.files import check_file
from pipeline.system.locks import locked

if TYPE_CHECKING:
    import torch

    from models.backbone import Backbone
    from models.info import ModelInfo
    from pipeline.inference.clips import ClipRule, Clips, Videos
    from pipeline.inference.features import ClipFeatures, Features, FeaturesOrigin
    from pipeline.inference.neighbours import Neighbours

#: What is kept on disk at the latest: after so many seconds, or bytes of features.
FLUSH_SECONDS, FLUSH_BYTES = 20.0, 64 << 20


@dataclass(frozen=True)
class Refused:
    """A video without features, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class Embedding:
    """The result of :func:`embed`.

    Attributes:
        file: of the features; :meth:`features` reads it.
        about: what they were made with: the model's hash, clips, tokens, shape.
        videos_ok, videos_total: with features, and asked for; `computed` of them were not there before.
        clips: rows of the file.
        failed: videos without features.
        seconds: that this call took.
        neighbours: of the video that was asked for.
    """

    file: str
    about: FeaturesOrigin
    videos_ok: int
    videos_total: int
    computed: int
    clips: int
    failed: list[Refused]
    seconds: float
    neighbours: Neighbours | None = None

    def features(self) -> Features:
        """The file's content."""
        from pipeline.inference.features import read

        return read(Path(self.file))


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
    device: Literal["auto", "cpu", "cuda"] = "auto",
    near: str | Path | None = None,
    top: int = 8,
    picture: Path | str = Path("outputs/embed/neighbours.png"),
) -> Embedding:
    """Features of videos.

    Args:
        videos: files, folders that are searched, or the name of a benchmark of params.yaml.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder; a pre-training model or a
            classifier.
        out: a .parquet or .npz file; what it holds already is not computed again. None: one in outputs/embed, named
            by what is embedded and by the model's hash.
        pool: what a row holds.
        clips: over a video's length; by default as many as the model was tested with, one for a pre-training model.
        frame_step: frames from one of a clip to the next; as trained if None.
        keep: share of tokens that the encoder sees; the model's own if None.
        batch: clips that go through the model together.
        near: a video whose nearest neighbours among the others are drawn to `picture`, `top` of them.

    Raises:
        InputError: no such model or video, options that it cannot have, a file that cannot be written or holds
            features of other videos alone.
        BusyError: another call writes this file now.
        Interrupted: stopped by Ctrl-C; what was computed is kept.
    """
    from pipeline.inference import clips as source
    from pipeline.inference.models import load_hashed

    began = time.monotonic()
    names = [str(video) for video in videos]
    _check(pool, batch, clips, keep, near, top)
    folder, info, network, digest = load_hashed(model)
    rule = _rule(info, folder, clips, frame_step)
    ratio = _set_keep(network, keep)
    about = _about(folder, digest, info, network, rule, pool, ratio)
    benchmark = source.is_benchmark(names)
    called = names[0] if benchmark else source.called(names)
    target = Path(out) if out is not None else Path("outputs/embed") / f"{called}-{digest[:12]}-{pool}.parquet"
    _check_target(target, None if near is None else Path(picture))
    place = _device(device)
    opened = source.of_benchmark(names[0], rule) if benchmark else source.of_files(names, rule)
    # Two calls would write each other's parts.
    with locked(target.with_name(f".{target.name}.lock"), str(target)), opened as clips_of:
        if clips_of.source is not None:
            about |= {"source": clips_of.source, "short_side": clips_of.source["short_side"]}
        result = _embedded(clips_of, network, about, target, batch, place)
        neighbours = None
        if near is not None:
            from pipeline.inference.neighbours import neighbours as nearest

            neighbours = nearest(clips_of, target, Path(near), network, rule, place, top, Path(picture))
    ok, computed, rows, failed = result
    return Embedding(
        file=str(target),
        about=about,
        videos_ok=ok,
        videos_total=len(clips_of.names),
        computed=computed,
        clips=rows,
        failed=failed,
        seconds=round(time.monotonic() - began, 3),
        neighbours=neighbours,
    )


def _embedded(
    videos: Videos, network: Backbone, about: FeaturesOrigin, target: Path, batch: int, device: torch.device
) -> tuple[int, int, int, list[Refused]]:
    """(videos with features, videos computed now, rows of the file, refused), and the file."""
    from pipeline.inference.features import FeatureFile

    file = FeatureFile(target, about)
    done = file.finished()
    keys = list(zip(videos.names, videos.contents, strict=True))
    file.keep_others(videos.names)
    todo = [number for number, key in enumerate(keys) if key not in done]
    failed: list[Refused] = []
    computed = 0
    try:
        for rows, refused in _computed(videos, todo, network, about, batch, device):
            file.add(rows)
            computed += len({row.video for row in rows})
            failed += refused
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(keys) - len(todo) + computed} of {len(keys)} videos are embedded and kept; the same "
            "command goes on from there."
        ) from None
    if len(failed) == len(keys):
        return 0, 0, 0, failed  # nothing to be written
    rows_written = file.finish(dict(zip(keys, zip(videos.labels, videos.splits, strict=True), strict=True)))
    return len(keys) - len(failed), computed, rows_written, failed


def _computed(
    videos: Videos, todo: Sequence[int], network: Backbone, about: FeaturesOrigin, batch: int, device: torch.device
) -> Iterator[tuple[list[ClipFeatures], list[Refused]]]:
    """Rows of whole videos and the refused ones, every now and then."""
    import torch

    from pipeline.data.pixels.normalise import model_pixels
    from pipeline.evaluation.inference import read_groups
    from pipeline.inference.pooling import features
    from pipeline.system.progress import Bar

    network = network.to(device).eval()
    bar = Bar("embedding")
    rows: list[ClipFeatures] = []
    refused: list[Refused] = []
    since, size = time.monotonic(), 0
    groups = read_groups(
        lambda place: videos.read(todo[place]), len(todo), max(1, batch // about["clips"]), None, workers=2
    )
    with torch.inference_mode():
        for places, results in groups:
            read = {todo[p]: r for p, r in zip(places, results, strict=True) if not isinstance(r, str)}
            refused += [
                Refused(videos.names[todo[p]], r) for p, r in zip(places, results, strict=True) if isinstance(r, str)
            ]
            if read:
                pixels = [
                    model_pixels(torch.from_numpy(one.pixels_GTHWC), about["resolution"], device)
                    for one in read.values()
                ]
                parts = [features(network, part, about["pool"]) for part in torch.cat(pixels).split(batch)]
                values = torch.cat([part for part, _ in parts]).float().cpu().numpy()
                kept = torch.cat([part for _, part in parts]).cpu().numpy()
                new = _rows(videos, read, values, kept if about["pool"] == "tokens" else None)
                rows += new
                size += values.nbytes
            if places:
                bar(places[-1] + 1, len(todo))
            if time.monotonic() - since > FLUSH_SECONDS or size > FLUSH_BYTES:
                yield rows, refused
                rows, refused, since, size = [], [], time.monotonic(), 0
    yield rows, refused


def _rows(videos: Videos, read: Mapping[int, Clips], values: np.ndarray, kept: np.ndarray | None) -> list[ClipFeatures]:
    from pipeline.inference.features import ClipFeatures

    rows: list[ClipFeatures] = []
    for number, clips in read.items():
        for clip, frames in enumerate(clips.numbers_GT):
            first, last = int(frames.min()), int(frames.max())
            rows.append(
                ClipFeatures(
                    video=videos.names[number],
                    label=videos.labels[number],
                    split=videos.splits[number],
                    clip=clip,
                    first_frame=first,
                    last_frame=last,
                    start_seconds=first / clips.fps if clips.fps else float("nan"),
                    end_seconds=(last + 1) / clips.fps if clips.fps else float("nan"),
                    content=videos.contents[number],
                    features=values[len(rows)],
                    kept=None if kept is None else kept[len(rows)],
                )
            )
    return rows


def _about(
    folder: Path, digest: str, info: ModelInfo, network: Backbone, rule: ClipRule, pool: Pool, ratio: float
) -> FeaturesOrigin:
    """What decides the features, and the folder of the model."""
    from pipeline.params.declared import versions

    slots, side, width = info.frames // 2, info.pixels.resolution // 16, network.num_features
    shapes = {"clip": [network.head_hidden_size], "slots": [slots, width], "tokens": [slots * side * side, width]}
    return {
        "model": str(folder),
        "model_sha256": digest,
        "architecture": info.architecture,
        "stage": info.stage,
        "pool": pool,
        "shape": shapes[pool],
        "grid": [slots, side, side],
        "strategy": info.kwargs.get("strategy"),
        "keep_ratio": ratio,
        "frames": rule.frames,
        "frame_step": rule.step.entry,
        "clips": rule.clips,
        "resolution": info.pixels.resolution,
        "short_side": info.pixels.short_side,
        "versions": {name: versions()[name] for name in ("reading", "views", "selection", "networks")},
    }


def _rule(info: ModelInfo, folder: Path, clips: int | None, frame_step: int | None) -> ClipRule:
    from pipeline.data.frame_step import trained_step
    from pipeline.inference.clips import ClipRule

    step = trained_step(info, frame_step)
    if step is None:
        raise InputError(f"{folder}/model.json: frame_step = {info.frame_step}. Cure: say one with --frame-step.")
    return ClipRule(info.frames, step, clips or info.views.segments, info.views.grid, info.pixels.short_side)


def _set_keep(network: Backbone, keep: float | None) -> float:
    """Let the encoder see a share of the tokens; returns the share that holds."""
    from models import EverestAutoencoder
    from models.strategies import STRATEGIES

    name = "feature_ratio" if isinstance(network, EverestAutoencoder) else "keep_ratio"
    if keep is not None:
        if STRATEGIES[network.strategy].keep is None or not STRATEGIES[network.strategy].uses_keep_ratio:
            raise InputError(
                f"keep = {keep:g}: this model's strategy {network.strategy!r} keeps all tokens. Cure: leave --keep out."
            )
        setattr(network, name, keep)
        setattr(network, "score_share", None)  # noqa: B010 - each clip its own budget: not where one was asked for
    ratio = float(getattr(network, name))
    return ratio if STRATEGIES[network.strategy].uses_keep_ratio else 1.0


def _device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    from pipeline.distributed.groups import choose_device

    return choose_device(device)


def _check(pool: str, batch: int, clips: int | None, keep: float | None, near: str | Path | None, top: int) -> None:
    if pool not in get_args(Pool):
        raise InputError(f"pool = {pool!r}, expected one of {', '.join(get_args(Pool))}. Cure: choose one of them.")
    for name, value in (("batch", batch), ("clips", clips), ("top", top)):
        if value is not None and value < 1:
            raise InputError(f"{name} = {value}: expected at least 1. Cure: leave it out.")
    if keep is not None and not 0 < keep <= 1:
        raise InputError(f"keep = {keep:g}: expected above 0 and at most 1. Cure: 1 keeps all tokens.")
    if near is not None and pool != "clip":
        raise InputError(f"pool = {pool!r} with near: neighbours are those of pooled features. Cure: --pool clip.")
    if near is not None and not os.path.lexists(near):
        raise InputError(f"{near} does not exist. Cure: name the video whose neighbours are wanted.")


def _check_target(target: Path, picture: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    from pipeline.inference.features import FORMATS

    if target.suffix not in FORMATS:
        raise InputError(f"out = {str(target)!r}: its suffix must be one of {', '.join(FORMATS)}. Cure: name it so.")
    for place in filter(None, (target, picture)):
        check_file(place)
