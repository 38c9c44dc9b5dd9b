"""A second sequential pass over a file: a damaged one may give other pictures each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.data.video.reader import VideoError
from pipeline.data.video.stream import open_stream, packets, pictures
from pipeline.data.video.survey import PictureDigest, Survey, Watcher, survey


def confirm(path: str, first: Survey, seconds: float) -> None:
    """Compare a second pass with the first, for a file of which nothing else was proven.

    Args:
        seconds: after so many the rest is taken on trust.

    Raises:
        VideoError: it gives other pictures than the first.
    """
    give_up = time.monotonic() + seconds
    for number, digest in enumerate(_digests(path)):
        _compare(first, number, digest)
        if time.monotonic() > give_up:
            return


def survey_twice(path: str, watcher: Watcher, seconds: float) -> Survey:
    """The record of a pass that a second one beside it, in a thread, has confirmed.

    Decoders let go of Python's lock, so on two cores it takes hardly longer than one pass.

    Args:
        seconds: after so many the rest of the second pass is taken on trust.

    Raises:
        VideoError: as :func:`survey`, and where the passes give other pictures.
    """
    give_up = time.monotonic() + seconds
    ended = threading.Event()

    def second() -> list[bytes]:
        found: list[bytes] = []
        for digest in _digests(path):
            found.append(digest)
            if ended.is_set() or time.monotonic() > give_up:
                break
        return found

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(second)
        try:
            first = survey(path, watcher)
        except BaseException:
            ended.set()
            raise
        for number, digest in enumerate(beside.result()):
            _compare(first, number, digest)
    return first


def _digests(path: str) -> Iterator[bytes]:
    """The names of a pass's pictures."""
    container, stream = open_stream(path)
    with container:
        digest = PictureDigest()
        for picture in pictures(packets(container, stream, path), path):
            yield digest(picture)


def _compare(first: Survey, number: int, digest: bytes) -> None:
    if number >= len(first.digests) or digest != first.digests[number]:
        raise VideoError("undecodable", f"two passes over it give different pictures from frame {number} on")
