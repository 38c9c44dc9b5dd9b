"""Which files are videos: the one way in which a folder is listed, for ingest, predict, show and the sources.

Links to files and folders are followed; each real file comes once, at the first of its places, so that a link back up
counts nothing twice (hard links are files of their own). Hidden files and folders, whose names begin with a dot, are
passed over. What has a video's suffix but is no regular file is listed, to be refused by name: a pipe would wait for
a writer.
"""

from __future__ import annotations

import os
import stat
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


def video_files(root: Path) -> tuple[list[str], int]:
    """Paths below `root` of the files with a video's suffix, sorted; and the count of other files.

    Raises:
        InputError: `root` is not a folder, or a folder below it cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Cure: name the folder that holds the videos.")
    places: dict[str, str] = {}
    others: set[str] = set()
    real = os.path.realpath(root)
    entered, level = {real}, [("", real)]
    while level:
        deeper = []
        # Level by level, in order of names: of several places of a file the one nearest to the root is taken.
        for prefix, folder in sorted(level):
            for entry in _entries(root, prefix):
                path = prefix + entry.name
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder}/{entry.name}"
                if _is_folder(entry):
                    if target not in entered:
                        entered.add(target)
                        deeper.append((f"{path}/", target))
                elif os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES:  # noqa: PTH122 - may be undecodable
                    places.setdefault(target, path)
                else:
                    others.add(target)
        level = deeper
    return sorted(places.values()), len(others)


def find_videos(names: Sequence[str | Path]) -> list[Path]:
    """Files as they are named, folders listed by :func:`video_files`, each real file once, in order.

    Raises:
        InputError: a path does not exist, or there is no video.
    """
    places: dict[str, Path] = {}
    for path in map(Path, names):
        if not os.path.lexists(path):
            raise InputError(f"{path} does not exist. Cure: name a video or a folder with videos.")
        for file in [path / name for name in video_files(path)[0]] if path.is_dir() else [path]:
            places.setdefault(os.path.realpath(file), file)
    if not places:
        where = ", ".join(map(str, names)) or "nothing"
        raise InputError(f"no video in {where}. Cure: files that end in {' '.join(sorted(VIDEO_SUFFIXES))}.")
    return list(places.values())


def refusal(path: Path) -> tuple[str, str] | None:
    """Why ingest refuses a file before any byte of it is read: (reason, message), or None."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return "bad_name", "the file's name is not valid UTF-8"
    try:
        status = path.stat()
    except FileNotFoundError:
        return "not_a_file" if path.is_symlink() else "missing", f"{path} does not exist"
    except OSError as error:
        return "unreadable", f"{path}: {error.strerror or error}"
    if not stat.S_ISREG(status.st_mode):
        return "not_a_file", f"{path} is not a regular file"
    if not os.access(path, os.R_OK):
        return "unreadable", f"{path}: no permission to read it"
    return None


def _entries(root: Path, prefix: str) -> list[os.DirEntry[str]]:
    """What a folder below the root holds and does not hide, by name."""
    folder = f"{os.fspath(root)}/{prefix}"
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed: {error.strerror}. Cure: allow it, or name a folder without it."
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to one another
        return False
