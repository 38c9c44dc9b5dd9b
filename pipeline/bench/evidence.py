"""Evidence for choosing frames by pixel distances: do they rank places and slots as a trained embedding does?

Spearman's rank correlation between the pixel distance maps of a video and the distance maps of a tubelet
embedding (a trained one, or a random one for comparison), over all tokens and over the slots' sums; and what
choosing before decoding saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pipeline.bench.harness import Figures, expect_at_least, expect_resolution
from pipeline.data import sampling
from pipeline.data.arrays import TUBELET, U8, Floats
from pipeline.data.cache.maps import MapBuilder
from pipeline.data.video.listing import find_videos
from pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from models.autoencoder import EverestAutoencoder
    from models.classifier import EverestClassifier


#: Frames that are held at a time, and that a video has at least.
WINDOW = 16


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Rank correlation of two equally long lists; equal values share their mean rank. NaN where one is constant."""
    x, y = (_ranks(np.asarray(values, dtype=np.float64).ravel()) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else float("nan")


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Floats = ((ends - counts + ends - 1) / 2)[place]
    return mean


def agreement(frames: Iterable[U8], embed: Callable[[Tensor], Tensor], resolution: int) -> dict[str, float]:
    """Correlations of one video's pixel maps with an embedding's, over tokens and over slots.

    Args:
        frames: uint8 [H, W, 3] at the frame step, an even number of at least 4; a window of them is held at a time.
        embed: clip [1, 3, T, R, R], normalised -> tokens [1, S, L, D] before positions are added.
    """
    import torch

    from models.selection import slot_distances
    from pipeline.data.pixels.normalise import normalise
    from pipeline.data.pixels.resize import crop_resize

    builder = MapBuilder(resolution)
    distances: list[Tensor] = []
    last: list[Tensor] = []  # slot of the window before
    coming = iter(frames)
    while window := list(islice(coming, WINDOW)):
        for frame in window:
            builder.add(frame)
        clip = torch.from_numpy(np.stack(window))[None]
        # The whole frame, as the pixel maps see it.
        resized = crop_resize(clip, np.asarray([[0, 0, *clip.shape[2:4]]]), resolution, "cpu")
        with torch.inference_mode():
            slots = [*last, *embed(normalise(resized)).split(1, dim=1)]
            distances.append(slot_distances(torch.cat(slots, dim=1))[0, 1:])
        last = slots[-1:]
    # Slot 0 has no predecessor in either.
    pixel, learned = builder.maps()[TUBELET::TUBELET].astype(np.float64), torch.cat(distances).double().numpy()
    return {"tokens": spearman(pixel, learned), "slots": spearman(pixel.sum(axis=1), learned.sum(axis=1))}


def decoding_saved(frames: int, oversample: float) -> float:
    """Share of the candidate frames that are never decoded when choosing looks at stored maps."""
    return 1 - frames / (TUBELET * sampling.candidate_slots(frames, oversample))


def command(videos: Sequence[Path], model_dir: Path, step: int = 4, resolution: int = 224) -> Figures:
    """Correlations for every video (those that are long enough and change), their means, and how many stand still.

    Args:
        videos: video files, and folders of them.
        model_dir: a saved model whose tubelet embedding is compared.
        step, resolution: of the clips.

    Raises:
        InputError: no such step or resolution, the folder holds no model, or no video is long enough and changes.
    """
    expect_at_least(1, step=step)
    expect_resolution(resolution)
    from models.weights import load_model
    from pipeline.data.video import VideoError, open_video

    if not (model_dir / "model.json").is_file():
        raise InputError(f"{model_dir} holds no model.json. Cure: train first, or name another folder.")
    model = cast("EverestAutoencoder | EverestClassifier", load_model(model_dir)).eval()
    rows, still = {}, 0
    for path in find_videos(videos):
        try:
            with open_video(path) as reader:
                numbers = list(range(0, reader.num_frames, step))
                if len(numbers) < WINDOW:
                    continue
                frames = reader.pick(numbers[: len(numbers) // 2 * 2])
                row = agreement(frames, lambda clip: embed_slots(model, clip), resolution)
        except VideoError:
            continue
        if np.isfinite(list(row.values())).all():
            rows[str(path)] = row
        else:  # equal distances rank nothing
            still += 1
    if not rows:
        raise InputError(f"no video is long enough to compare and changes ({still} stand still). Cure: name others.")
    return {
        "videos": rows,
        "videos_still": still,
        "tokens": float(np.mean([row["tokens"] for row in rows.values()])),
        "slots": float(np.mean([row["slots"] for row in rows.values()])),
        "decoding_saved": decoding_saved(16, 1.5),
    }


def embed_slots(model: EverestAutoencoder | EverestClassifier, clip_BCTHW: Tensor) -> Tensor:
    """The tubelet embedding of a pre-training model or classifier: clip -> [B, S, L, D], positions not added."""
    from models.autoencoder import EverestAutoencoder
    from models.tokens import check_clip, cut_tubelets

    grid = check_clip(clip_BCTHW, 16, TUBELET)
    owner = model.encoder if isinstance(model, EverestAutoencoder) else model
    return owner.patch_embed(cut_tubelets(clip_BCTHW, grid, 16, TUBELET)).unflatten(1, (grid.slots, -1))
