"""Your own videos: a folder for each class, or a CSV or Parquet table beside them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipeline.data.annotations.base import Listing
from pipeline.data.annotations.own import from_folders, from_table
from pipeline.data.sources.base import PlannedFile
from pipeline.errors import InputError
from pipeline.params import FolderSource
from pipeline.system.files import symlink

#: The name under which the videos' folder is reached from the raw folder, so that a manifest names no
#: machine's path.
LINK = "videos"


class Folder:
    """Videos that stay where they are; the raw folder holds one link to them."""

    def __init__(self, source: FolderSource) -> None:
        self._source = source

    def plan(self, raw: Path) -> list[PlannedFile]:
        folder_of(self._source)
        return []

    def prepare(self, raw: Path) -> Listing:
        listing = listing_of(self._source)
        prefix = reach(raw, folder_of(self._source))
        listing.videos = [replace(video, path=f"{prefix}{video.path}") for video in listing.videos]
        return listing


def listing_of(source: FolderSource) -> Listing:
    """What a folder or its table lists, with paths below that folder; writes nothing.

    Raises:
        InputError: there is no such folder or table, or a row cannot be used.
    """
    folder, table = folder_of(source), table_of(source)
    return from_folders(folder) if table is None else from_table(table, folder)


def table_of(source: FolderSource) -> Path | None:
    """The table that a source names, looked for here and beside the videos; None where folders are the classes."""
    if source.annotations is None:
        return None
    table = Path(source.annotations).expanduser()
    return table if table.is_absolute() or table.exists() else Path(source.path).expanduser() / table


def folder_of(source: FolderSource) -> Path:
    """The folder that a source names.

    Raises:
        InputError: it is none.
    """
    folder = Path(source.path).expanduser()
    if not folder.is_dir():
        raise InputError(f"source.path = {source.path!r} is not a folder. Cure: set it to the folder of your videos.")
    return folder


def reach(raw: Path, folder: Path) -> str:
    """Make the videos reachable below `raw`; returns the prefix of their paths."""
    target = folder.resolve()
    if raw.resolve() == target:
        return ""
    raw.mkdir(parents=True, exist_ok=True)
    link = raw / LINK
    if link.is_symlink() and Path(os.readlink(link)) == target:  # noqa: PTH115
        return f"{LINK}/"
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link} is in the way: expected a link to {target}. Cure: move it away.")
    symlink(link, target)
    return f"{LINK}/"
