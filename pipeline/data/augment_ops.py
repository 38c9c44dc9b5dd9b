"""The operations of RandAugment on a group of clips, batched: uint8 [G,T,H,W,3] and a strength for each clip.

Each gives what Pillow's operation of the same name gives for a clip of one frame, to within one grey level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Colour of what a shifted or turned picture leaves free: ImageNet's mean.
FILL = (124.0, 116.0, 104.0)
#: Weights of red, green and blue in a grey value (ITU-R 601-2).
GREY = (0.299, 0.587, 0.114)


def auto_contrast(clip: Tensor, _strength: Tensor) -> Tensor:
    """Stretch each colour so that its darkest value becomes 0 and its brightest 255."""
    low = clip.amin(dim=(1, 2, 3), keepdim=True).float()
    high = clip.amax(dim=(1, 2, 3), keepdim=True).float()
    spread = (high - low).clamp(min=1)
    stretched = ((clip.float() - low) * (255 / spread)).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, clip)


def equalize(clip: Tensor, _strength: Tensor) -> Tensor:
    """Make each colour's histogram over the clip flat."""
    group = clip.shape[0]
    colours = clip.permute(0, 4, 1, 2, 3).reshape(group * 3, -1).long()
    counts = torch.zeros(group * 3, 256, dtype=torch.long, device=clip.device)
    counts.scatter_add_(1, colours, torch.ones_like(colours))
    level = torch.arange(256, device=clip.device)
    brightest = torch.where(counts > 0, level, 0).amax(dim=1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, brightest)) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp(max=255), level)
    mapped = table.gather(1, colours).to(torch.uint8)
    return mapped.view(group, 3, *clip.shape[1:4]).permute(0, 2, 3, 4, 1)


def invert(clip: Tensor, _strength: Tensor) -> Tensor:
    return 255 - clip


def posterize(clip: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` bits."""
    keep = (256 - 2.0 ** (8 - bits)).clamp(min=0).to(torch.uint8)
    return clip & _each(keep)


def solarize(clip: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above the threshold."""
    return torch.where(clip.short() < _each(threshold.short()), clip, 255 - clip)


def solarize_add(clip: Tensor, added: Tensor) -> Tensor:
    """Brighten values below 128."""
    brighter = (clip.short() + _each(added.short())).clamp_(max=255).to(torch.uint8)
    return torch.where(clip < 128, brighter, clip)


def colour(clip: Tensor, factor: Tensor) -> Tensor:
    """Between grey (0), the clip (1) and stronger colours."""
    return _blend(_grey(clip), clip, factor)


def contrast(clip: Tensor, factor: Tensor) -> Tensor:
    """Between the clip's mean grey (0), the clip (1) and stronger contrast."""
    mean = _grey(clip).mean(dim=(1, 2, 3, 4), keepdim=True).add(0.5).floor()
    return _blend(mean, clip, factor)


def brightness(clip: Tensor, factor: Tensor) -> Tensor:
    """Between black (0), the clip (1) and brighter."""
    return _blend(torch.zeros((), device=clip.device), clip, factor)


def sharpness(clip: Tensor, factor: Tensor) -> Tensor:
    """Between a smoothed clip (0), the clip (1) and a sharper one; the outermost pixels stay."""
    planes = clip.flatten(0, 1).permute(0, 3, 1, 2).float()
    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]], device=clip.device) / 13
    inner = F.conv2d(planes, kernel.expand(3, 1, 3, 3), groups=3)
    smooth = planes.clone()
    smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).floor()
    return _blend(smooth.permute(0, 2, 3, 1).view(clip.shape), clip, factor)


def rotate(clip: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre."""
    angle = torch.deg2rad(degrees)
    zero = torch.zeros_like(angle)
    rows = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero]
    return _warp(clip, torch.stack(rows, dim=1).view(-1, 2, 3))


def shear_x(clip: Tensor, share: Tensor) -> Tensor:
    """Move each row sideways by `share` of its distance to the top."""
    return _sheared(clip, share, across=True)


def shear_y(clip: Tensor, share: Tensor) -> Tensor:
    """Move each column by `share` of its distance to the left."""
    return _sheared(clip, share, across=False)


def translate_x(clip: Tensor, share: Tensor) -> Tensor:
    """Move to the left by a share of the width."""
    return _moved(clip, share * clip.shape[3], torch.zeros_like(share))


def translate_y(clip: Tensor, share: Tensor) -> Tensor:
    """Move up by a share of the height."""
    return _moved(clip, torch.zeros_like(share), share * clip.shape[2])


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1, 1)


def _grey(clip: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=clip.device)
    return (clip.float() @ weights).add_(0.5).floor_().unsqueeze(-1)


def _blend(from_: Tensor, clip: Tensor, factor: Tensor) -> Tensor:
    # Tiny tolerance before cutting decimals off: 1.0 * x must stay x.
    mixed = from_ + _each(factor) * (clip.float() - from_)
    return mixed.add_(1e-3).clamp_(0, 255).to(torch.uint8)


def _sheared(clip: Tensor, share: Tensor, across: bool) -> Tensor:
    """x' = x + share * y in pixels (as Pillow's affine transform), the origin at the top left."""
    one, zero = torch.ones_like(share), torch.zeros_like(share)
    rows = [one, share, zero, zero, one, zero] if across else [one, zero, zero, share, one, zero]
    return _warp(clip, torch.stack(rows, dim=1).view(-1, 2, 3), corner=True)


def _moved(clip: Tensor, right: Tensor, down: Tensor) -> Tensor:
    one, zero = torch.ones_like(right), torch.zeros_like(right)
    rows = [one, zero, right, zero, one, down]
    return _warp(clip, torch.stack(rows, dim=1).view(-1, 2, 3), corner=True)


def _warp(clip: Tensor, matrix_G23: Tensor, corner: bool = False) -> Tensor:
    """Output pixel (x, y) takes the input at `matrix @ (x, y, 1)`, bilinear; outside is FILL.

    Coordinates are pixels, from the top left corner or from the centre.
    """
    group, length, height, width = clip.shape[:4]
    device = clip.device
    origin = torch.zeros(2, device=device) if corner else torch.tensor([width / 2, height / 2], device=device)
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    place = torch.stack([x, y], dim=-1) - origin
    source = torch.einsum("gij,hwj->ghwi", matrix_G23[:, :, :2], place) + matrix_G23[:, None, None, :, 2] + origin
    grid = source * torch.tensor([2 / width, 2 / height], device=device) - 1
    planes = clip.permute(0, 1, 4, 2, 3).reshape(group, length * 3, height, width).float()
    fill = torch.tensor(FILL, device=device).repeat(length).view(1, -1, 1, 1)
    # Shifted by the fill colour, so that sampling's zeros outside are the fill.
    warped = F.grid_sample(planes - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill
    result = warped.round_().clamp_(0, 255).to(torch.uint8)
    return result.view(group, length, 3, height, width).permute(0, 1, 3, 4, 2)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": invert,
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "colour": colour,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
