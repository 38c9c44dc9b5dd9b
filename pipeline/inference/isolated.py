"""Test views of files that nobody has verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.data.arrays import U8
from pipeline.data.frame_step import Step
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.ingest.reading import Accepted
from pipeline.evaluation.views import video_views, view_frames


class IsolatedViews(IsolatedFrames):
    """Reads views as :class:`IsolatedFrames` reads frames."""

    def read(
        self,
        file: Path,
        how: dict[str, int],
        step: Step,
        short_side: int | None = None,
        check: Callable[[Accepted], None] | None = None,
    ) -> U8:
        """The views of one video, as :func:`pipeline.evaluation.views.video_views` gives them for `how`.

        Args:
            short_side: [pixels] larger frames are shrunk to it first, as the cache's were.
            check: told what is known of the video before its frames are read; a VideoError that it raises refuses it.

        Raises:
            VideoError: it cannot be read, or its process was ended; asked again, the answer is the same at once.
        """

        def choose(video: Accepted) -> list[int]:
            if check is not None:
                check(video)
            own = step.of(video.frames, video.fps)
            return view_frames(video.frames, how["frames"], own, how["segments"], how["grid"])

        video, pictures = self.frames(file, choose, short_side)
        cut = {name: how[name] for name in ("frames", "segments", "crops", "grid")}
        return video_views(lambda _: pictures, video.frames, step=step.of(video.frames, video.fps), **cut)
