"""Where videos come from: one class for each kind of source, behind the interface of `base.Source`."""

from __future__ import annotations

from pipeline.data.annotations.base import ListedVideo, Listing
from pipeline.data.sources.base import PlannedFile, Source
from pipeline.params import DataParams, FolderSource, GeneratedSource

__all__ = ["ListedVideo", "Listing", "PlannedFile", "Source", "source_of"]


def source_of(data: DataParams) -> Source:
    """The source that a benchmark's parameters describe."""
    if isinstance(data.source, GeneratedSource):
        from pipeline.data.sources.generate import Generated

        return Generated(data.source)
    if isinstance(data.source, FolderSource) and data.dataset == "folder":
        from pipeline.data.sources.folder import Folder

        return Folder(data.source)
    from pipeline.data.sources.official import Official

    return Official(data.dataset, data.source)
