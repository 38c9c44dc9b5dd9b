"""A process that reads one video's test frames after another for `isolated`, and may be killed at any moment.

Requests are ["open", ...], which says what there is to come, then ["next", ...] until all has come: so few frames at
a time that neither side ever holds those of a large video at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.ingest.measure import admit
from pipeline.data.video import VideoError, VideoReader, open_video
from pipeline.data.video.process import serve
from pipeline.evaluation.views import view_frames

#: [bytes] of frames that are handed over together, and at least one frame.
PORTION = 64 << 20


class _Reading:
    """The video that is open, and its frames that are still to come."""

    def __init__(self) -> None:
        self.video: VideoReader | None = None
        self.pictures: Iterator[np.ndarray] = iter(())

    def open(
        self,
        name: str,
        reader: str,
        known: tuple[int, str] | None,
        rule: tuple[float, int, int],
        frames: int,
        step: int,
        segments: int,
        grid: int,
    ) -> dict[str, Any]:
        """Open a video that ingest accepts under a rule; `known` is what it found where it did so before.

        Returns:
            num_frames of the video and its proven jumps, and wanted, the number of frames of its views.
        """
        self.close()
        if known is None:
            facts = admit(Path(name), reader, *rule)
            known = facts["frames_decoded"], facts["jumps"]
        count, jumps = known
        self.video = open_video(name, reader, count, jumps)
        numbers = view_frames(count, frames, step, segments, grid)
        self.pictures = self.video.pick(numbers)
        return {"num_frames": count, "jumps": jumps, "wanted": len(numbers)}

    def next(self, target: int) -> dict[str, Any]:
        """Write the next frames to the descriptor `target`; returns their shape."""
        shape: tuple[int, ...] = ()
        written = 0
        with open(target, "r+b", closefd=False) as file:
            file.seek(0)
            for picture in self.pictures:
                file.write(np.ascontiguousarray(picture).data)
                shape, written = picture.shape, written + 1
                if (written + 1) * picture.nbytes > PORTION:
                    break
        return {"shape": [written, *shape]}

    def close(self) -> None:
        self.pictures = iter(())
        if self.video is not None:
            self.video.close()
            self.video = None


_reading = _Reading()


def _answer(what: str, *arguments: Any) -> dict[str, Any]:
    """The answer to a request, or {"reason": code, "error": message} of a video that cannot be read."""
    try:
        return _reading.open(*arguments) if what == "open" else _reading.next(*arguments)
    except VideoError as error:
        _reading.close()
        return {"reason": error.reason, "error": str(error)}


if __name__ == "__main__":
    serve(_answer)
