"""A process that reads frames of one video after another for `isolated`, and may be killed at any moment.

Requests are ["open", ...], which says what the video holds, ["pick", ...], which says what is wanted of it, then
["next", ...] until all has come: so few frames at a time that neither side ever holds those of a large video at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.ingest.measure import admit
from pipeline.data.video import VideoError, VideoReader, open_video
from pipeline.data.video.process import serve

#: [bytes] of frames that are handed over together, and at least one frame.
PORTION = 64 << 20


class _Reading:
    """The video that is open, and its frames that are still to come."""

    def __init__(self) -> None:
        self.video: VideoReader | None = None
        self.pictures: Iterator[np.ndarray] = iter(())

    def open(
        self, name: str, reader: str, known: dict[str, Any] | None, rule: tuple[float, int, int]
    ) -> dict[str, Any]:
        """Open a video that ingest accepts under a rule; `known` is what this returned when it did so before.

        Returns:
            frames, fps and proven jumps of the video.
        """
        self.close()
        if known is None:
            facts = admit(Path(name), reader, *rule)
            known = {"frames": facts["frames_decoded"], "fps": facts["fps"], "jumps": facts["jumps"]}
        self.video = open_video(name, reader, known["frames"], known["jumps"])
        return known

    def pick(self, numbers: list[int]) -> dict[str, Any]:
        """Say which frames are to come, by their ascending numbers."""
        assert self.video is not None
        self.pictures = self.video.pick(numbers)
        return {}

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
_REQUESTS: dict[str, Callable[..., dict[str, Any]]] = {
    "open": _reading.open,
    "pick": _reading.pick,
    "next": _reading.next,
}


def _answer(what: str, *arguments: Any) -> dict[str, Any]:
    """The answer to a request, or {"reason": code, "error": message} of a video that cannot be read."""
    try:
        return _REQUESTS[what](*arguments)
    except VideoError as error:
        _reading.close()
        return {"reason": error.reason, "error": str(error)}


if __name__ == "__main__":
    serve(_answer)
