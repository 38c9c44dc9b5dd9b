"""Which files are videos, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "avi", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp"),
        *("ts", "mts", "ogv", "gif", "y4m", "h264", "asf", "vob"),
    )
)


def find_videos(names: Sequence[str | Path]) -> list[Path]:
    """Files as they are named, folders searched through, each once, in order.

    Raises:
        InputError: a path does not exist, or there is no video.
    """
    found: dict[Path, None] = {}
    for path in map(Path, names):
        if not path.exists():
            raise InputError(f"{path} does not exist. Cure: name a video or a folder with videos.")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES) if path.is_dir() else [path]
        found |= dict.fromkeys(inside)
    if not found:
        where = ", ".join(map(str, names)) or "nothing"
        raise InputError(f"no video in {where}. Cure: files that end in {' '.join(sorted(VIDEO_SUFFIXES))}.")
    return list(found)
