"""A process that reads one video's test views after another for `isolated`, and may be killed at any moment."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipeline.data.decoder_process import serve
from pipeline.data.video import VideoError, open_video
from pipeline.evaluation.views import video_views


def _answer(name: str, reader: Literal["auto", "pyav"], how: dict[str, int], target: int) -> dict[str, Any]:
    """Write the views as .npy to the descriptor `target`; {}, or {"reason": code, "error": message} without any."""
    try:
        with open_video(name, reader) as video:
            views = video_views(video.frames, video.num_frames, **how)
    except VideoError as error:
        return {"reason": error.reason, "error": str(error)}
    with open(target, "r+b", closefd=False) as file:
        file.seek(0)
        np.save(file, views)
    return {}


if __name__ == "__main__":
    serve(_answer)
