"""How a video's pictures are turned and mirrored before they are shown, as its display matrix says."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.video.reader import VideoError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.sidedata.sidedata import SideData

#: [degrees] A matrix that is off a quarter turn by more is refused.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Orientation:
    """Turned counter-clockwise by `rotation` degrees, after mirroring left and right where `mirrored`."""

    rotation: int = 0
    mirrored: bool = False

    @property
    def swaps_sides(self) -> bool:
        return self.rotation in (90, 270)

    def shown(self, picture_HWC: U8) -> U8:
        """The picture [H, W, 3] as it is shown; its rows may have gaps."""
        if not self.rotation and not self.mirrored:
            return picture_HWC
        # A pixel's three bytes move as one: in half the time of single bytes.
        pixels_HW = picture_HWC.view("V3")[..., 0]
        turned_HW = np.rot90(pixels_HW[:, ::-1] if self.mirrored else pixels_HW, self.rotation // 90)
        return np.ascontiguousarray(turned_HW)[..., None].view(np.uint8)


UPRIGHT = Orientation()


def display_matrix(frame: VideoFrame) -> bytes:
    """The display matrix of a decoded picture as stored, b"" where it has none."""
    # Most pictures have none, and asking costs less than looking for it.
    for data in cast("Iterable[SideData]", frame.side_data):
        if data.type.name == "DISPLAYMATRIX":
            return bytes(data)
    return b""


def orientation(matrix: bytes) -> Orientation:
    """What a display matrix of FFmpeg asks for: a point (x, y) is shown at (a x + c y, b x + d y).

    Raises:
        VideoError: it turns by an angle that is no quarter turn, or it is no turn at all.
    """
    if not matrix:
        return UPRIGHT
    a, b, _, c, d, *_ = (value / 65536 for value in struct.unpack("=9i", matrix))
    across, down = math.hypot(a, b), math.hypot(c, d)
    if not across or not down:
        return UPRIGHT  # as FFmpeg shows it: such a matrix has no angle
    mirrored = a * d - b * c < 0
    # Where the picture's x axis points after mirroring; in pictures y grows downwards.
    angle = math.degrees(math.atan2(-b, a)) if not mirrored else math.degrees(math.atan2(b, -a))
    quarters = round(angle / 90)
    if abs(angle - 90 * quarters) > TOLERANCE:
        raise VideoError("askew", f"its display matrix turns it by {angle % 360:.0f} degrees")
    return Orientation(90 * (quarters % 4), mirrored)
