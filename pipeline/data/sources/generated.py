"""The source that draws its videos itself: no network, no licence, the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.annotations.base import ListedVideo, Listing
from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.generate import generate, plan
from pipeline.params import GeneratedSource
from pipeline.system.files import require_space
from pipeline.system.progress import counter

#: Bytes of one pixel of one frame in the written H.264 files, rounded up; for the check of free space only.
BYTES_PER_PIXEL = 0.2


class Generated:
    """Videos of :mod:`pipeline.data.sources.generate`."""

    def __init__(self, source: GeneratedSource) -> None:
        self._source = source

    def plan(self, raw: Path) -> list[PlannedFile]:
        size = int(self._source.frames * self._source.size**2 * BYTES_PER_PIXEL)
        return [PlannedFile(video.path, "generated", size, (raw / video.path).exists()) for video in plan(self._source)]

    def prepare(self, raw: Path) -> Listing:
        needed = sum(file.bytes or 0 for file in self.plan(raw) if not file.present)
        require_space(raw, needed, "writing the generated videos")
        videos = generate(self._source, raw, progress=counter("drawing videos"))
        names = {video.label: video.label_name for video in videos}
        origin = f"generated:{self._source.task}:{self._source.seed}"
        listed = [
            ListedVideo(Path(v.path).with_suffix("").as_posix(), v.path, (v.split,), v.label, v.label_name, origin)
            for v in videos
        ]
        return Listing([names[label] for label in sorted(names)], listed)
