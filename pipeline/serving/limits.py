"""What a served model accepts, from the environment of the server's process."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

FOLDER = "EVEREST_SERVE_FOLDER"
MEGABYTES = "EVEREST_SERVE_MEGABYTES"
SECONDS = "EVEREST_SERVE_SECONDS"
DECODE_SECONDS = "EVEREST_SERVE_DECODE_SECONDS"
VIDEOS = "EVEREST_SERVE_VIDEOS"


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a request.

    Attributes:
        folder: paths must lie in it, links resolved; None: no path is taken, only base64.
        megabytes: of a video's file, in 10^6 bytes.
        seconds: that a video may last.
        decode_seconds: that its decoding may take; its process is then killed.
        videos: of one request.
    """

    folder: Path | None = None
    megabytes: float = 64.0
    seconds: float = 600.0
    decode_seconds: float = 30.0
    videos: int = 16

    @classmethod
    def by_environment(cls) -> ServingLimits:
        """From EVEREST_SERVE_FOLDER, _MEGABYTES, _SECONDS, _DECODE_SECONDS and _VIDEOS.

        Raises:
            InputError: a value that is no number above 0, or a folder that does not exist.
        """
        named = os.environ.get(FOLDER)
        folder = Path(named).resolve() if named else None
        if folder is not None and not folder.is_dir():
            raise InputError(f"{FOLDER} = {named!r} is no folder. Cure: name the folder that videos are served from.")
        return cls(
            folder,
            _number(MEGABYTES, cls.megabytes),
            _number(SECONDS, cls.seconds),
            _number(DECODE_SECONDS, cls.decode_seconds),
            max(1, int(_number(VIDEOS, cls.videos))),
        )


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} = {text!r}: expected a number above 0. Cure: set it, for example to {default:g}.")
    return value
