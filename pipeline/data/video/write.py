"""Video files out: frames encoded so that equal input gives equal bytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.data.arrays import U8
from pipeline.system.files import atomic_path

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import OutputContainer

#: x264's macroblock tree gives other bytes now and then for small pictures (15 of 100 files of 64 pixels with
#: version 165's vector code), so it is off: equal frames must give equal files.
X264 = {"x264-params": "mbtree=0"}
#: For a container: no library versions or dates in the file.
BITEXACT = {"fflags": "+bitexact"}


def write_video(
    path: Path,
    frames_THWC: U8,
    fps: float = 25.0,
    codec: str = "libx264",
    crf: int = 18,
    preset: str = "veryfast",
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames to a file whose suffix names the container; equal input gives equal bytes.

    Args:
        path: appears only when complete.
        frames_THWC: uint8 RGB [T, H, W, 3].
        options: further encoder options (`{"g": "12"}`).

    Raises:
        ValueError: wrong shape or type, or no frame.
    """
    import av

    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 [T,H,W,3] frames, got {frames_THWC.dtype} {list(frames_THWC.shape)}")
    if not len(frames_THWC):
        raise ValueError("a video needs at least one frame, got none")
    height, width = frames_THWC.shape[1:3]
    with atomic_path(Path(path)) as temporary, av.open(str(temporary), "w", options=BITEXACT) as container:
        stream = encoder(container, codec, Fraction(fps).limit_denominator(100_000), crf, preset, options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
        for frame in frames_THWC:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def encoder(
    container: OutputContainer,
    codec: str,
    fps: Fraction | int,
    crf: int,
    preset: str,
    options: dict[str, str] | None = None,
) -> VideoStream:
    """A new stream of a container, whose output depends on its pictures alone.

    Args:
        crf, preset: of x264 and x265; other codecs get neither.
    """
    stream = cast("VideoStream", container.add_stream(codec, rate=fps))
    # One thread: x264's output depends on the number.
    quality = {"crf": str(crf), "preset": preset} if codec.startswith("libx26") else {}
    plain = X264 if codec == "libx264" else {}
    stream.options = {"threads": "1", "flags": "+bitexact", **quality, **plain, **(options or {})}
    return stream
