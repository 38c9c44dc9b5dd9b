"""Files whose pictures are shown at other times than their headers claim."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

#: [ms] Two seconds at 30 a second, then 24 at 10 a second.
FAST_THEN_SLOW = [round(number * 1000 / 30) for number in range(60)] + [1967 + 100 * (n + 1) for n in range(240)]
#: Frames per second at which those are shown.
TRUE_RATE = 299 / (FAST_THEN_SLOW[-1] / 1000)


def write(path: Path, milliseconds: Sequence[int] = FAST_THEN_SLOW, claimed: Fraction | int = 30) -> Path:
    """A file with a picture at each of these times, whose header says `claimed` frames per second."""
    pictures = np.random.default_rng(0).integers(0, 255, (len(milliseconds), 32, 32, 3), dtype=np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=claimed)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(milliseconds, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path
