"""The five public benchmarks, from their publishers or mirrors to a list of videos with labels.

Below the raw folder: `downloads/` (archives; those fetched here go once they are unpacked, those placed by
hand stay), `annotations/`, and `videos/`. A folder that an archive is unpacked to appears only when
everything is out, so its being there is what says that nothing needs to be fetched again.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.data.annotations import ListedVideo, Listing, read
from pipeline.data.sources import catalogue
from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.catalogue import Item
from pipeline.data.sources.fetcher import DOWNLOADS, Fetcher
from pipeline.data.sources.folder import folder_of, reach
from pipeline.data.sources.part import Address
from pipeline.data.video.listing import video_files
from pipeline.params import FolderSource, OfficialSource
from pipeline.params.benchmarks import PUBLISHED

log = logging.getLogger(__name__)

VIDEOS = "videos"
ANNOTATIONS = "annotations"


class Official:
    """A published benchmark.

    Args:
        dataset: ucf101, hmdb51, k400, ssv2 or oscc.
        source: its addresses and mirrors, or a folder that already holds videos and annotation files.
    """

    def __init__(self, dataset: str, source: OfficialSource | FolderSource) -> None:
        self._dataset = dataset
        self._source = source

    def plan(self, raw: Path) -> list[PlannedFile]:
        if isinstance(self._source, FolderSource):
            folder_of(self._source)
            return []
        if self._dataset == "ssv2" and not self._source.mirrors:
            from pipeline.data.sources.gated import missing_ssv2

            where = f"by hand, from {catalogue.SSV2_WHERE}"
            return [PlannedFile(f"{DOWNLOADS}/{name}", where, None, present=False) for name in missing_ssv2(raw)]
        fetcher = Fetcher(raw, self._source)
        planned: list[PlannedFile] = []
        for item in self._items(fetcher, raw):
            if fetcher.is_done(item):
                planned.append(PlannedFile(item.key, "", None, present=True))
            else:
                planned += fetcher.plan(item)
        if self._dataset == "oscc":
            from pipeline.data.sources.gated import plan_oscc

            planned += plan_oscc(fetcher, self._source.limit)
        if self._dataset == "k400":
            where = "named by its list, which is not here yet"
            absent = [split for split, item in catalogue.K400_LISTS.items() if not fetcher.is_done(item)]
            planned += [PlannedFile(f"archives of {split}", where, None, present=False) for split in absent]
        return planned

    def prepare(self, raw: Path) -> Listing:
        if isinstance(self._source, FolderSource):
            return self._from_folder(raw, self._source)
        fetcher = Fetcher(raw, self._source)
        limit = self._source.limit
        if self._dataset == "ssv2":
            from pipeline.data.sources.gated import place_ssv2

            place_ssv2(raw, fetcher)
        elif self._dataset == "oscc":
            from pipeline.data.sources.gated import place_oscc

            place_oscc(raw, fetcher, limit)
        else:
            self._fetch_public(fetcher, raw, limit)
        return self._list(raw, raw / ANNOTATIONS, f"{VIDEOS}/", limit)

    def _items(self, fetcher: Fetcher, raw: Path) -> list[Item]:
        if self._dataset == "k400":
            items = list(catalogue.K400)
            present = [split for split, item in catalogue.K400_LISTS.items() if fetcher.is_done(item)]
            return items + [part for split in present for part in k400_parts(raw, split)]
        if self._dataset in ("ucf101", "hmdb51"):
            return list(catalogue.UCF101 if self._dataset == "ucf101" else catalogue.HMDB51)
        from pipeline.data.sources.gated import items_of

        return items_of(self._dataset, fetcher)

    def _fetch_public(self, fetcher: Fetcher, raw: Path, limit: int | None) -> None:
        fetcher.bring([item for item in self._items(fetcher, raw) if item.into is None])
        if self._dataset != "k400":
            fetcher.bring(self._items(fetcher, raw))
            return
        queues = [k400_parts(raw, split) for split in catalogue.K400_LISTS]
        # The splits take turns, so that a limited copy has some videos of each.
        turns = [
            part for turn in range(max(map(len, queues), default=0)) for q in queues for part in q[turn : turn + 1]
        ]
        if limit is None:
            fetcher.bring([*turns, *catalogue.K400])
            return
        for start in range(0, len(turns), len(queues)):
            fetcher.bring(turns[start : start + len(queues)])
            if len(video_files(raw / VIDEOS)[0]) >= limit:
                break

    def _from_folder(self, raw: Path, source: FolderSource) -> Listing:
        folder = folder_of(source)
        where = Path(source.annotations).expanduser() if source.annotations else folder
        if self._dataset == "oscc":
            from pipeline.data.sources.gated import cut_windows

            if (raw / VIDEOS).is_symlink():
                (raw / VIDEOS).unlink()  # of before: windows went through it into the user's folder
            cut_windows(raw, where, folder, None)
            return self._list(raw, where, f"{VIDEOS}/", None)
        return self._list(raw, where, reach(raw, folder), None)

    def _list(self, raw: Path, annotations: Path, prefix: str, limit: int | None) -> Listing:
        """Match annotated videos with files below `prefix`; the others get the path where they should be."""
        listing = read(self._dataset, annotations)
        disk = _Disk(raw, self._dataset, prefix)
        videos = listing.videos
        if limit is not None:
            ranked = sorted(videos, key=lambda video: hashlib.sha256(video.video_id.encode()).digest())
            videos = [video for video in ranked if disk.find(video)][:limit]
        absent = sum(disk.find(video) is None for video in videos)
        if absent:
            listing.problems.append(f"{absent} of {len(videos)} listed videos are not on disk")
        expected = PUBLISHED[self._dataset].files
        if expected and limit is None and disk.count != expected:
            listing.problems.append(f"{disk.count} video files are on disk, a whole copy has {expected}")
        kind = "folder" if isinstance(self._source, FolderSource) else "official"
        listing.videos = [
            replace(video, path=disk.find(video) or f"{prefix}{video.path}", source=f"{kind}:{self._dataset}")
            for video in videos
        ]
        return listing


class _Disk:
    """Video files below the raw folder, found by the publisher's names wherever an archive put them."""

    def __init__(self, raw: Path, dataset: str, prefix: str) -> None:
        folder = raw / prefix
        paths = video_files(folder)[0] if folder.is_dir() else []
        self.count = len(paths)
        self._two = dataset in ("ucf101", "hmdb51")
        self._paths: dict[str, str] = {}
        replacements: dict[str, str] = {}
        for path in paths:
            parts = path.split("/")
            if dataset == "k400" and any("replacement" in part for part in parts[:-1]):
                replacements[parts[-1][:11]] = prefix + path
            else:
                self._paths.setdefault("/".join(parts[-2:] if self._two else parts[-1:]), prefix + path)
        self._replacements = replacements

    def find(self, video: ListedVideo) -> str | None:
        """Path of a video's file relative to the raw folder. Kinetics: a replacement comes first."""
        # The publisher names replacements by the video's id, the first 11 characters of a file's name.
        if self._replacements and (path := self._replacements.get(video.video_id[:11])):
            return path
        return self._paths.get(video.path)


def k400_parts(raw: Path, split: str) -> list[Item]:
    """The archives of one Kinetics split, from its list."""
    place = catalogue.K400_LISTS[split].place
    assert place is not None
    items = []
    for line in (raw / place).read_text(encoding="utf-8").split():
        key = urlsplit(line).path.partition(catalogue.K400_BASE)[2] or urlsplit(line).path.lstrip("/")
        name = Path(key).name.split(".")[0]
        items.append(Item(key=key, addresses=(Address(line),), into=f"{VIDEOS}/{split}_{name}"))
    return items
