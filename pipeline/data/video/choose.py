"""Opening a video with the reader that serves it in every path."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.data.video.decord_reader import DecordReader
from pipeline.data.video.jumps import Jumps
from pipeline.data.video.pyav_reader import PyavReader
from pipeline.data.video.reader import VideoReader
from pipeline.data.video.stream import sniff
from pipeline.errors import EverestError


def open_video(path: Path | str, reader: str = "pyav", frames: int = 0, jumps: str = "") -> VideoReader:
    """Open a local video file.

    Args:
        path: any file name; it is never taken for an address or an option.
        reader: the manifest's: "decord" where ingest found that PyAV falls over the file, else "pyav".
        frames: the manifest's number of decoded frames; 0: they are counted when asked for.
        jumps: the manifest's proven entries (`pipeline.data.video.jumps`); "": the file is read from its start.

    Raises:
        VideoError: it does not open; `.reason` says why.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - a leading "/" keeps FFmpeg from seeing a protocol
    sniff(absolute)
    if reader == "decord":
        return DecordReader(absolute)
    try:
        entries = Jumps.parse(jumps)
    except ValueError as error:
        raise EverestError(f"{path}: {error}. Cure: run the download stage again.") from None
    return PyavReader(absolute, frames, entries)


def preload() -> None:
    """Load the decoder's library now, for a process whose clock starts with its first file."""
    import av
    import av.video.reformatter  # noqa: F401
