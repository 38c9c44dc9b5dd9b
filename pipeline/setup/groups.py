"""Which videos belong together, so that a split must not part them: cuts of one source, or nearly the same pictures."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.setup.look import OwnVideo

#: Names of cuts: what precedes is the source. Kinetics' times, UCF101's clips, and the usual words with a number.
_TIMES = re.compile(r"(?P<source>.+?)[_-]\d{6}[_-]\d{6}")
_SECONDS = re.compile(r"(?P<source>.+?)[_-]\d+(?:\.\d+)?s?[_-]\d+(?:\.\d+)?s")
_CUT = re.compile(r"(?P<source>.+?)[ ._-]*(?:[_ .-]c|clip|part|pt|segment|seg|cut|chunk|shot|scene)[ ._-]*\d+", re.I)
#: Sources that a class must have before names are believed: of `clip_1`, `clip_2` the number means nothing.
FEWEST = 3


@dataclass(frozen=True)
class Groups:
    """Group of each video by its path, and how many videos each way of finding groups joined to another one."""

    of: dict[str, int]
    joined: dict[str, int]

    def count(self) -> int:
        """Groups, videos that stand alone included."""
        return len(set(self.of.values()))

    def shared(self) -> int:
        """Groups of more than one video."""
        return sum(count > 1 for count in Counter(self.of.values()).values())


def group(videos: Sequence[OwnVideo], similar: Sequence[Sequence[str]]) -> Groups:
    """Find what belongs together: by the table's column `group` where it is filled, else by names and pictures.

    Args:
        similar: paths of videos that show nearly the same pictures.
    """
    parents = {video.path: video.path for video in videos}

    def root(path: str) -> str:
        while parents[path] != path:
            parents[path] = parents[parents[path]]
            path = parents[path]
        return path

    joined: Counter[str] = Counter()
    named: dict[str, list[str]] = defaultdict(list)
    for video in videos:
        if video.group:
            named[video.group].append(video.path)
    free = {video.path for video in videos if not video.group}
    believed = _sources([video for video in videos if not video.group])
    pictures = [[path for path in paths if path in free] for paths in similar]
    for way, sets in (("column group", named.values()), ("names", believed.values()), ("pictures", pictures)):
        for paths in sets:
            if len(paths) > 1:
                joined[way] += len(paths)
                for path in paths[1:]:
                    parents[root(path)] = root(paths[0])
    numbers = {name: number for number, name in enumerate(sorted({root(video.path) for video in videos}))}
    return Groups({video.path: numbers[root(video.path)] for video in videos}, dict(joined))


def source_of_name(path: str) -> str | None:
    """The source that a cut's name tells, or None: `v_Run_g01_c02.avi` -> `v_Run_g01`."""
    stem = PurePosixPath(path).stem
    for pattern in (_TIMES, _SECONDS, _CUT):
        if match := pattern.fullmatch(stem):
            return match["source"].rstrip(" ._-")
    return None


def _sources(videos: Sequence[OwnVideo]) -> dict[str, list[str]]:
    """Videos by the source that their names tell, where a class has several sources: else the name is the class's."""
    by_class: dict[str, list[OwnVideo]] = defaultdict(list)
    for video in videos:
        for name in video.classes or ("",):
            by_class[name].append(video)
    groups_of: dict[str, dict[str, None]] = defaultdict(dict)
    for label in sorted(by_class):
        source_of = {video.path: source_of_name(video.path) for video in by_class[label]}
        if len({source for source in source_of.values() if source}) < FEWEST:
            continue
        for path, source in source_of.items():
            if source:
                groups_of[source][path] = None
    return {source: list(paths) for source, paths in groups_of.items()}
