"""A process that reads one video's test frames after another for `isolated`, and may be killed at any moment."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipeline.data.decoder_process import serve
from pipeline.data.video import VideoError, open_video
from pipeline.evaluation.views import view_frames


def _answer(
    name: str, reader: Literal["pyav", "decord"], frames: int, step: int, segments: int, grid: int, target: int
) -> dict[str, Any]:
    """Write the frames of all views as .npy to the descriptor `target`.

    Returns:
        {"num_frames": of the video}, or {"reason": code, "error": message} without any.
    """
    try:
        with open_video(name, reader) as video:
            count = video.num_frames
            pictures = video.frames(view_frames(count, frames, step, segments, grid))
    except VideoError as error:
        return {"reason": error.reason, "error": str(error)}
    with open(target, "r+b", closefd=False) as file:
        file.seek(0)
        np.save(file, pictures)
    return {"num_frames": count}


if __name__ == "__main__":
    serve(_answer)
