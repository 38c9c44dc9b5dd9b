"""`everest show VIDEO`, and the picture that pre-training logs: what the model keeps, sees and reconstructs.

`look` computes, `pipeline.pictures.draw` draws. Without a model, redundancy is measured on raw pixels, whose
distances need no weights (and which the cache's distance maps use by default).

Shapes: A candidate slots, S slots, L places, N tokens, P values of a tubelet, T frames; one clip (B = 1).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.data.frame_step import Step, trained_step
from pipeline.errors import InputError
from pipeline.pictures.draw import Look
from pipeline.system.text import printable, shortened

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from models import EverestAutoencoder
    from models.info import ModelInfo
    from models.selection import Grid, TokenSplit
    from pipeline.data.ingest.isolated import IsolatedFrames
    from pipeline.data.ingest.reading import Accepted

Animation = Literal["gif", "webp", "none"]
PATCH, TUBELET = 16, 2
#: [bytes] of a video's name in its picture's: with suffix, and while it is unfinished, still a file's name.
PICTURE_NAME = 200
#: Frames from one of a clip to the next where no model says it: the paper's for most data sets.
FRAME_STEP = 4
#: Shares of all tokens that are kept and shown where there is no model, whose own would hold: the paper's.
KEEP_RATIO, VISIBLE_RATIO = 0.3, 0.1


def show(
    video: Path,
    model_dir: Path | None = None,
    out: Path = Path(),
    *,
    start: float | None = None,
    frame_step: int | None = None,
    oversample: float = 1.5,
    keep_ratio: float = KEEP_RATIO,
    visible_ratio: float = VISIBLE_RATIO,
    resolution: int = 224,
    seed: int = 0,
    animation: Animation = "gif",
) -> list[Path]:
    """Write `<video>.png` and an animation into `out`; returns their paths.

    The window of candidate slots begins at `start` seconds (default: in the middle of the video) with every
    `frame_step`-th frame (default: the model's, or FRAME_STEP); where the video is too short the step shrinks.
    `model_dir` holds a pre-training model (the reconstruction is drawn) or a classifier (the tokens it keeps); its
    ratios and size then hold. Raises InputError for a video or a model that cannot be used, or a picture that would
    replace the video.
    """
    import torch

    from models.frames import num_candidates
    from models.weights import load_model
    from pipeline.data.ingest.isolated import IsolatedFrames
    from pipeline.data.video import VideoError
    from pipeline.model_folder import describe
    from pipeline.pictures.draw import pictures_at, save_pictures

    path = out / shortened(video.stem, PICTURE_NAME)
    for picture_file in pictures_at(path, animation):
        if video.exists() and picture_file.exists() and picture_file.samefile(video):
            raise InputError(
                f"{printable(picture_file)} is {printable(video)} itself, which its picture would replace. "
                "Cure: another folder with --out."
            )
    try:
        info = describe(model_dir) if model_dir is not None else None
        model = load_model(model_dir).eval() if model_dir is not None else None
        arguments: dict[str, Any] = getattr(model, "kwargs", {})
        num_slots = arguments.get("num_frames", 16) // TUBELET
        size = arguments.get("img_size", resolution)
        candidates = num_candidates(num_slots, oversample)
        step = Step(frame_step or FRAME_STEP) if info is None else _trained_step(info, model_dir, frame_step)
        short_side = None if info is None else info.pixels.short_side
        with IsolatedFrames.by_params(workers=1) as reader:
            clip, times = read_window(reader, video, candidates * TUBELET, step, start, size, short_side)
        generator = torch.Generator().manual_seed(seed)
        picture = look(model, clip, num_slots, generator, keep_ratio=keep_ratio, visible_ratio=visible_ratio)
    except VideoError as error:
        about = "" if str(error).startswith(str(video)) else f"{video}: "
        raise InputError(f"{about}{error}. Cure: a video that plays; `everest ingest` checks a folder.") from None
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from None
    slots = [] if picture.slots_S is None else picture.slots_S.tolist()
    chosen = [times[TUBELET * slot + i] for slot in slots for i in range(TUBELET)]
    title = f"{printable(video.name)}, {times[0]:.1f} to {times[-1]:.1f} s"
    scored = f"scores by {printable(model_dir)}" if model_dir is not None else "no model: scores by raw pixels"
    return save_pictures(picture._replace(times_T=chosen), path, f"{title}  ·  {scored}", animation)


def _trained_step(info: ModelInfo, model_dir: Path | None, wanted: int | None) -> Step:
    """The frame step that was asked for, or that a model was trained with.

    Raises:
        InputError: its record does not say one, or several.
    """
    step = trained_step(info, wanted)
    if step is None:
        raise InputError(f"{model_dir}/model.json: frame_step = {info.frame_step}. Cure: say one with --frame-step.")
    return step


def picture_of(model: nn.Module, clip_CTHW: Tensor, path: Path, title: str, seed: int = 0) -> list[Path]:
    """One picture and animation of a normalised clip at `path` (no suffix), for the pre-training stage to log."""
    import torch

    from pipeline.pictures.draw import save_pictures

    training = model.training
    model.eval()
    try:
        picture = look(model, clip_CTHW[None], None, torch.Generator().manual_seed(seed))
    finally:
        model.train(training)
    return save_pictures(picture, path, title, "gif")


def read_window(
    reader: IsolatedFrames,
    video: Path,
    count: int,
    step: Step,
    start: float | None,
    size: int,
    short_side: int | None = None,
) -> tuple[Tensor, list[float]]:
    """`count` frames of a video as a model is tested on them, and their times in seconds.

    They are normalised, [1, 3, count, size, size]. A step that does not fit shrinks; a video of fewer frames repeats
    some.

    Args:
        short_side: [pixels] larger frames are shrunk to it first, as the cache's were.
    """
    import torch

    from pipeline.data.pixels.normalise import model_pixels

    def window(accepted: Accepted) -> list[int]:
        length = min((count - 1) * step.of(accepted.frames, accepted.fps), accepted.frames - 1)
        if start is not None and not 0 <= start * accepted.fps < accepted.frames:
            raise InputError(
                f"start = {start} s lies outside {video.name}, which lasts {accepted.frames / accepted.fps:.1f} s. "
                "Cure: within it."
            )
        first = (accepted.frames - 1 - length) // 2 if start is None else round(start * accepted.fps)
        first = min(first, accepted.frames - 1 - length)
        numbers: list[int] = np.linspace(first, first + length, count).round().astype(int).tolist()
        return numbers

    accepted, frames_THWC = reader.frames(video, lambda accepted: sorted(set(window(accepted))), short_side)
    numbers = window(accepted)
    places = np.searchsorted(sorted(set(numbers)), numbers)
    clip_BTHWC = torch.from_numpy(frames_THWC[places])[None]
    return model_pixels(clip_BTHWC, size, "cpu"), [number / accepted.fps for number in numbers]


def look(
    model: nn.Module | None,
    clip_BCTHW: Tensor,
    choose: int | None,
    generator: Generator,
    *,
    keep_ratio: float = KEEP_RATIO,
    visible_ratio: float = VISIBLE_RATIO,
) -> Look:
    """Run selection, and where the model has a decoder the reconstruction, on one normalised clip.

    With `choose` the clip holds candidate slots, of which that many are drawn first. `model` None: raw
    pixels.
    """
    import torch

    from models import EverestAutoencoder
    from models.frames import draw_slots, slot_counts
    from models.selection import rero_scores, slot_distances
    from models.tokens import check_clip, cut_tubelets, join_tubelets, seen_clip

    with torch.no_grad():
        device = clip_BCTHW.device if model is None else next(model.parameters()).device
        clip_BCTHW = seen_clip(clip_BCTHW.to(device, torch.float32), getattr(model, "clip_input", "rgb"))
        grid = check_clip(clip_BCTHW, PATCH, TUBELET)
        tubelets_BNP = cut_tubelets(clip_BCTHW, grid, PATCH, TUBELET)
        embed = _embedding(model)
        candidates_ACHW = counts_BA = slots_BS = None
        if choose is not None:
            distance_BAL = slot_distances(embed(tubelets_BNP).unflatten(1, (grid.slots, -1)))
            counts_BA = slot_counts(distance_BAL, getattr(model, "keep_ratio", keep_ratio))
            slots_BS = draw_slots(counts_BA, choose, torch.rand(counts_BA.shape, generator=generator).to(device))
            candidates_ACHW = _pixels(clip_BCTHW[:, :, ::TUBELET])
            tubelets_BNP = tubelets_BNP.unflatten(1, (grid.slots, -1))[:, slots_BS[0]].flatten(1, 2)
            grid = grid._replace(slots=choose)
        embedded_BND = embed(tubelets_BNP)
        noise_BN = torch.rand(1, grid.tokens, generator=generator).to(device)
        kept_BK, split = _select(model, (tubelets_BNP, embedded_BND), grid, noise_BN, (keep_ratio, visible_ratio))
        rebuilt_TCHW = None
        if isinstance(model, EverestAutoencoder) and split is not None:
            rebuilt_TCHW = _rebuild(model, tubelets_BNP, embedded_BND, split, grid).cpu()
        return Look(
            grid,
            _pixels(join_tubelets(tubelets_BNP, grid, PATCH, TUBELET)).cpu(),
            rero_scores(embedded_BND, grid.slots)[0].cpu(),
            _mask(kept_BK, grid),
            None if split is None else _mask(split.visible_BV, grid),
            rebuilt_TCHW,
            None if candidates_ACHW is None else candidates_ACHW.cpu(),
            None if counts_BA is None else counts_BA[0].cpu(),
            None if slots_BS is None else slots_BS[0].cpu(),
        )


def _embedding(model: nn.Module | None) -> Callable[[Tensor], Tensor]:
    from models import EverestAutoencoder, EverestClassifier

    if model is None:
        return lambda tubelets_BNP: tubelets_BNP
    if isinstance(model, EverestClassifier):
        return model.patch_embed
    if isinstance(model, EverestAutoencoder):
        return model.encoder.patch_embed
    raise ValueError(f"{type(model).__name__} is no model of this project. Cure: a folder that training wrote.")


def _select(
    model: nn.Module | None,
    tokens: tuple[Tensor, Tensor],
    grid: Grid,
    noise_BN: Tensor,
    ratios: tuple[float, float],
) -> tuple[Tensor, TokenSplit | None]:
    """Kept token indices, and in pre-training which of them are shown; `tokens` are tubelets and their embedding."""
    import torch

    from models import EverestAutoencoder, EverestClassifier
    from models.selection import rero_scores
    from models.strategies import token_budget
    from models.strategies.everest import everest_split

    tubelets_BNP, embedded_BND = tokens
    if isinstance(model, EverestClassifier):
        return model.select(embedded_BND, grid, tubelets_BNP)[0], None
    if isinstance(model, EverestAutoencoder):
        split = model.select(embedded_BND, grid, noise_BN, None, tubelets_BNP)[1]
    else:
        scores_BN = rero_scores(embedded_BND, grid.slots)
        split = everest_split(scores_BN, noise_BN, grid, token_budget("everest", grid, *ratios))
    return torch.cat([split.visible_BV, split.reconstruct_BR], dim=1), split


def _rebuild(
    model: EverestAutoencoder, tubelets_BNP: Tensor, embedded_BND: Tensor, split: TokenSplit, grid: Grid
) -> Tensor:
    """Frames [T, C, H, W] in [0, 1] with the predicted pixels in place of the reconstructed tokens."""
    from models.tokens import join_tubelets, predicted_pixels, take

    prediction_BRP = model.decode(model.encode(tubelets_BNP, embedded_BND, split), split, grid)
    true_BRP = take(tubelets_BNP, split.reconstruct_BR)
    index_BRP = split.reconstruct_BR[..., None].expand_as(true_BRP)
    unit_BNP = _unit(tubelets_BNP).scatter(1, index_BRP, predicted_pixels(prediction_BRP, true_BRP))
    return join_tubelets(unit_BNP, grid, PATCH, TUBELET)[0].transpose(0, 1)


def _mask(index_BK: Tensor, grid: Grid) -> Tensor:
    import torch

    return torch.zeros(grid.tokens, dtype=torch.bool).index_fill(0, index_BK[0].cpu(), True)


def _pixels(clip_BCTHW: Tensor) -> Tensor:
    """The clip's frames in [0, 1]: [T, C, H, W]."""
    from pipeline.data.pixels.normalise import denormalise

    return denormalise(clip_BCTHW)[0].transpose(0, 1)


def _unit(tubelets_BNP: Tensor) -> Tensor:
    """Normalised tubelets (c p0 p1 p2) as pixels in [0, 1]."""
    from pipeline.data.pixels.normalise import denormalise

    channels_BCNX = tubelets_BNP.unflatten(2, (3, -1)).transpose(1, 2)
    return denormalise(channels_BCNX).transpose(1, 2).flatten(2)
