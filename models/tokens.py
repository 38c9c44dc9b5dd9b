"""From clips to tubelets and back: cutting, position table, targets, and the checks of what comes in.

Shapes: B clips, C channels, T frames, H x W pixels, S slots, L places, N = S*L tokens, V chosen tokens,
P = C*2*16*16 = 1536 values of a tubelet in the order (c p0 p1 p2), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.selection import Grid

#: What a model sees of a clip: its pictures, or the grey differences between them.
INPUTS = ("rgb", "difference")
#: Brings differences, which are small beside pictures, to about their deviation. Ours.
DIFFERENCE_GAIN = 4.0
#: ImageNet statistics that clips are normalised with, as torchvision and timm publish them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_clip(clip_BCTHW: Tensor, patch: int, tubelet: int, channels: int = 3, pixels: bool = False) -> Grid:
    """The token grid of a clip; `pixels` takes uint8 too. No device sync.

    Raises ValueError naming the shape, what is expected and the cure.
    """
    shape = tuple(clip_BCTHW.shape)
    if clip_BCTHW.ndim != 5:
        raise ValueError(
            f"clip of shape {shape}, expected 5 dimensions [B, {channels}, T, H, W]. Cure: add the missing one."
        )
    if shape[1] != channels:
        cure = "check the channel dimension"
        if shape[2] == channels:
            cure = "this looks like [B, T, C, H, W]: clip.permute(0, 2, 1, 3, 4)"
        elif shape[4] == channels:
            cure = "this looks like [B, T, H, W, C]: clip.permute(0, 4, 1, 2, 3)"
        raise ValueError(
            f"clip of shape {shape} has {shape[1]} channels, expected [B, {channels}, T, H, W]. Cure: {cure}."
        )
    if not clip_BCTHW.is_floating_point() and not (pixels and clip_BCTHW.dtype == torch.uint8):
        raise ValueError(
            f"clip of {clip_BCTHW.dtype}, expected floats normalised with the ImageNet mean and deviation. "
            "Cure: (clip / 255 - mean) / std."
        )
    _, _, frames, height, width = shape
    if height % patch or width % patch or not height or not width:
        raise ValueError(
            f"clip of shape {shape}: {height}x{width} pixels do not divide into {patch}x{patch} patches. "
            f"Cure: resize to {max(1, round(height / patch)) * patch}x{max(1, round(width / patch)) * patch}."
        )
    if frames % tubelet:
        raise ValueError(
            f"clip of shape {shape}: {frames} frames do not divide into tubelets of {tubelet}. "
            f"Cure: {frames // tubelet * tubelet} or {(frames // tubelet + 1) * tubelet} frames."
        )
    if frames // tubelet < 2:
        raise ValueError(
            f"clip of shape {shape} has {frames // tubelet} time slot(s), expected at least 2: redundancy is the "
            f"distance between slots. Cure: {2 * tubelet} frames or more."
        )
    return Grid(frames // tubelet, height // patch, width // patch)


def check_pixels(clip_BCTHW: Tensor) -> None:
    """Raise ValueError where a pixel is NaN or infinite. Waits for the device: not for the training step."""
    if not torch.isfinite(clip_BCTHW.sum()):
        bad_B = (~torch.isfinite(clip_BCTHW)).flatten(1).sum(1).tolist()
        raise ValueError(
            f"clip of shape {tuple(clip_BCTHW.shape)} has NaN or infinite pixels (per clip: {bad_B}), expected finite "
            "values. Cure: check decoding and that no standard deviation of 0 divides."
        )


def check_input(clip_input: str) -> str:
    """The name itself; ValueError where there is no such input."""
    if clip_input not in INPUTS:
        raise ValueError(
            f"clip_input = {clip_input!r}, expected one of {', '.join(INPUTS)}. Cure: 'rgb' is the paper's."
        )
    return clip_input


def seen_clip(clip_BCTHW: Tensor, clip_input: str) -> Tensor:
    """What a model with this input makes its tubelets of, [B, C, T, H, W].

    "difference" (ours, not the paper's): each normalised frame minus the one before, as the mean over the channels, in
    all of them; the first frame has none and is 0. It hides what a thing looks like and leaves how it moves.
    """
    if clip_input == "rgb":
        return clip_BCTHW
    if clip_BCTHW.dtype == torch.uint8:
        clip_BCTHW = normalised(clip_BCTHW, channel=1)
    grey_B1THW = clip_BCTHW.mean(dim=1, keepdim=True)
    change_B1THW = DIFFERENCE_GAIN * grey_B1THW.diff(dim=2)
    change_B1THW = torch.cat([torch.zeros_like(grey_B1THW[:, :, :1]), change_B1THW], dim=2)
    return change_B1THW.expand(clip_BCTHW.shape)


def cut_tubelets(clip_BCTHW: Tensor, grid: Grid, patch: int, tubelet: int) -> Tensor:
    """Flattened tubelets [B, N, P], time-major.

    The values of a tubelet lie as those of a 3-D convolution's kernel do: (c p0 p1 p2).
    """
    batch, channels = clip_BCTHW.shape[:2]
    cells = clip_BCTHW.reshape(batch, channels, grid.slots, tubelet, grid.height, patch, grid.width, patch)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, grid.tokens, channels * tubelet * patch * patch)


def tubelets_at(
    clip_BCTHW: Tensor, grid: Grid, index_BK: Tensor, patch: int, tubelet: int, clip_BK: Tensor | None = None
) -> Tensor:
    """The tubelets at `index_BK` [B, K, P] as `cut_tubelets` gives them, without copying the others.

    Args:
        clip_BK: the clip of each index; None: one clip for each row.
    """
    batch, channels = clip_BCTHW.shape[:2]
    cells = clip_BCTHW.reshape(batch, channels, grid.slots, tubelet, grid.height, patch, grid.width, patch)
    clip_B1 = torch.arange(batch, device=index_BK.device)[:, None] if clip_BK is None else clip_BK
    slot_BK, place_BK = index_BK // grid.places, index_BK % grid.places
    return cells[clip_B1, :, slot_BK, :, place_BK // grid.width, :, place_BK % grid.width].flatten(2)


def normalised_tubelets(tubelets_BNP: Tensor, channels: int = 3) -> Tensor:
    """Tubelets of uint8 pixels, normalised."""
    return normalised(tubelets_BNP.unflatten(2, (channels, -1)), channel=2).flatten(2)


def normalised(pixels: Tensor, channel: int) -> Tensor:
    """uint8 pixels normalised with the ImageNet statistics of dimension `channel`, fp32: one multiply-add a value."""
    shape = (-1, *[1] * (pixels.ndim - channel - 1))
    scale = _column(tuple(1 / (255 * deviation) for deviation in IMAGENET_STD), pixels).view(shape)
    offsets = tuple(-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return torch.addcmul(_column(offsets, pixels).view(shape), pixels, scale)


def in_product_type(x: Tensor) -> Tensor:
    """`x` in the type that autocast gives to matrix products; unchanged where autocast is off.

    What is cast before it is copied about moves half the bytes.
    """
    kind = x.device.type
    # Meta tensors know no autocast; torch 2.11's compiler cannot trace the question whether a device knows it.
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def join_tubelets(tubelets_BNP: Tensor, grid: Grid, patch: int, tubelet: int, channels: int = 3) -> Tensor:
    """The clip [B, C, T, H, W] of its tubelets: the inverse of `cut_tubelets`."""
    cells = tubelets_BNP.reshape(-1, *grid, channels, tubelet, patch, patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return cells.reshape(-1, channels, grid.slots * tubelet, grid.height * patch, grid.width * patch)


def sinusoid_table(tokens: int, width: int) -> Tensor:
    """Fixed positions [N, D] (METHOD section 1).

    `angle[p, j] = p / 10000^(2*(j//2)/D)`, its sine on even j, its cosine on odd.
    """
    position_N1 = torch.arange(tokens, dtype=torch.float64)[:, None]
    column_D = torch.arange(width, dtype=torch.float64)
    angle_ND = position_N1 / 10000 ** (2 * (column_D // 2) / width)
    return torch.where(column_D % 2 == 0, angle_ND.sin(), angle_ND.cos()).float()


def take(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Rows of each clip by index: [B, K, D]."""
    batch, tokens, width = x_BND.shape
    start_B1 = torch.arange(batch, device=index_BK.device)[:, None] * tokens
    return x_BND.reshape(batch * tokens, width).index_select(0, (index_BK + start_B1).flatten()).view(batch, -1, width)


def normalised_targets(tubelets_BRP: Tensor, channels: int = 3) -> Tensor:
    """What the decoder has to predict [B, R, P], fp32 (METHOD section 4).

    Un-normalised pixels, each channel of each token brought to mean 0 and deviation 1 over its 512 pixels, in the order
    (p0 p1 p2) c.

    Un-normalising, `x * std + mean`, shifts and scales a channel; the shift goes with the token's mean, the
    scale cancels but in the 1e-6. So tubelets of uint8 pixels do as well: their scale is 255.
    """
    _, centred_BRCX, deviation_BRC1 = _statistics(tubelets_BRP, channels)
    if tubelets_BRP.dtype == torch.uint8:
        spread_BRC1 = deviation_BRC1 + 255e-6
    else:
        spread_BRC1 = deviation_BRC1 + 1e-6 / _column(IMAGENET_STD, tubelets_BRP)
    return (centred_BRCX / spread_BRC1).transpose(2, 3).flatten(2)


def predicted_pixels(prediction_BRP: Tensor, tubelets_BRP: Tensor, channels: int = 3) -> Tensor:
    """Pixels in [0, 1], (c p0 p1 p2), that a prediction means, for pictures.

    Mean and deviation are those of the true token.
    """
    std_C1 = _column(IMAGENET_STD, tubelets_BRP)
    mean_BRC1, _, deviation_BRC1 = _statistics(tubelets_BRP, channels)
    prediction_BRCX = prediction_BRP.float().unflatten(2, (-1, channels)).transpose(2, 3)
    normal_BRCX = prediction_BRCX * (deviation_BRC1 + 1e-6 / std_C1) + mean_BRC1
    pixel_BRCX: Tensor = normal_BRCX * std_C1 + _column(IMAGENET_MEAN, tubelets_BRP)
    return pixel_BRCX.clamp(0, 1).flatten(2)


def _statistics(tubelets_BRP: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, distance from it, and unbiased deviation of each channel of each token, in fp32."""
    values_BRCX = tubelets_BRP.float().unflatten(2, (channels, -1))
    mean_BRC1 = values_BRCX.mean(dim=3, keepdim=True)
    centred_BRCX = values_BRCX - mean_BRC1
    # A norm reads each row once, at full speed; torch.var_mean measured 30 times slower on a CPU.
    norm_BRC1 = torch.linalg.vector_norm(centred_BRCX, dim=3, keepdim=True)
    return mean_BRC1, centred_BRCX, norm_BRC1 / (values_BRCX.shape[3] - 1) ** 0.5


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values as fp32 [C, 1]. Filled on the device: copying them there would wait for it at every step."""
    return torch.stack([torch.full((1,), value, dtype=torch.float32, device=like.device) for value in values])
