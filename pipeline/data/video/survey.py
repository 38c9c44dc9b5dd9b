"""What a file holds, found by one sequential pass over all its pictures, and the entries that a second one proves."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from pipeline.data.video.display import display_matrix, orientation
from pipeline.data.video.jumps import Jumps
from pipeline.data.video.pyav_reader import enter, rate_of
from pipeline.data.video.reader import VideoError, first_line
from pipeline.data.video.stream import open_stream, packets, pictures, rate

#: Entries are at least so many frames apart: each one costs an opened file at ingest and saves a clip half of that.
SPACING = 24
#: An hour of video has no more entries than this.
MAX_ENTRIES = 200

#: Headers are often off by a frame or two, and then the true length is used. A file that lost more than a tenth of its
#: frames is a damaged one.
MISSING_SHARE = 0.1


@dataclass
class Survey:
    """A sequential pass. `digests` are equal where pictures are; `shapes` are (width, height, display matrix).

    `expected` is the number of pictures that the header promises, 0 where it promises none; `damaged` counts those that
    the decoder says are.
    """

    times: list[int | None] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    shapes: set[tuple[int, int, bytes]] = field(default_factory=set)
    stored: list[int | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    progressive: bool = True
    damaged: int = 0
    codec: str = ""
    expected: int = 0
    width: int = 0
    height: int = 0
    rotation: int = 0
    fps: float = 0.0

    @functools.cached_property
    def place(self) -> dict[int | None, int]:
        """The number of each picture by its time, once the pass is over."""
        return {time: number for number, time in enumerate(self.times)}

    @property
    def repeated_run(self) -> int:
        """Length of the longest run of equal neighbours; 1 where all differ, 0 without pictures."""
        longest = run = 0
        for number, digest in enumerate(self.digests):
            run = run + 1 if number and digest == self.digests[number - 1] else 1
            longest = max(longest, run)
        return longest


def survey(path: str) -> Survey:
    """Decode a file from its first picture to its last.

    Raises:
        VideoError: it does not open, does not decode to its end, has no picture, or is turned askew.
    """
    container, stream = open_stream(path)
    with container:
        result = Survey(codec=stream.codec_context.name)
        digest = PictureDigest()
        counts = _Counts()
        watched = _watch(packets(container, stream, path), result, counts)
        try:
            for picture in pictures(watched, path):
                shape = (picture.width, picture.height, display_matrix(picture))
                if not result.digests:
                    _describe(result, shape)
                    digest.rgb(picture)  # readers will: a format or a size that cannot become RGB is found now
                result.shapes.add(shape)
                result.times.append(picture.pts)
                result.digests.append(digest(picture))
                result.progressive &= not picture.interlaced_frame
                result.damaged += picture.is_corrupt
        except VideoError as error:
            declared = _declared(container, stream)
            if 0 < len(result.digests) < declared * (1 - MISSING_SHARE) and error.reason == "undecodable":
                told = f"{len(result.digests)} of {declared} declared frames decode, then: {error}"
                raise VideoError("declared_more_than_decoded", told) from None
            raise
        if not result.digests:
            raise VideoError("no_frames", "not one frame decodes")
        if result.damaged > MISSING_SHARE * len(result.digests):
            raise VideoError("undecodable", f"{result.damaged} of {len(result.digests)} pictures are damaged")
        result.fps = rate(stream) or rate_of(result.times, stream)
        result.expected = counts.expected(_declared(container, stream), container.format.name == "avi")
    return result


def prove(path: str, whole: Survey, seconds: float) -> Jumps:
    """The entries of a file, of which decoding to the next one gave the very pictures of the sequential pass.

    All of them or none: a file with a keyframe that does not stand for itself is read in sequence. What lies behind an
    entry is then known not to depend on what lies before it, so clips may run across entries.

    Args:
        seconds: after so many nothing is proven.
    """
    import av

    give_up = time.monotonic() + seconds
    order = _order(whole)
    if order is None:
        return Jumps()
    numbers = _entries(whole)
    bounds = [*numbers, len(whole.times)]
    digest = PictureDigest()
    # Interlaced pictures may consist of two fields of which one is referred to; without reordering hardly any picture
    # is one that no other refers to.
    skippable = whole.codec == "h264" and whole.progressive and order > 0
    for number, end in zip(numbers, bounds[1:], strict=True):
        if time.monotonic() > give_up:
            return Jumps()
        try:
            skippable = skippable and _holds(path, whole, digest, number, end, skip=True)
            # The beginning is no entry that could fail; it is decoded again, since damaged parts may differ each time.
            if (number or not skippable) and not _holds(path, whole, digest, number, end):
                return Jumps()
        except (VideoError, av.FFmpegError):
            return Jumps()
    entries = tuple((number, int(whole.times[number] or 0)) for number in numbers)
    return Jumps(entries, order, skippable)


def confirm(path: str, whole: Survey, seconds: float) -> None:
    """A second sequential pass, for a file of which nothing else was proven: a damaged one may differ each time.

    Args:
        seconds: after so many the rest is taken on trust.

    Raises:
        VideoError: it gives other pictures than the first.
    """
    give_up = time.monotonic() + seconds
    container, stream = open_stream(path)
    with container:
        digest = PictureDigest()
        for number, picture in enumerate(pictures(packets(container, stream, path), path)):
            if number >= len(whole.digests) or digest(picture) != whole.digests[number]:
                raise VideoError("undecodable", f"two passes over it give different pictures from frame {number} on")
            if time.monotonic() > give_up:
                return


def _holds(path: str, whole: Survey, digest: PictureDigest, number: int, end: int, skip: bool = False) -> bool:
    """Whether a file just opened and entered at a frame gives the pictures of the pass up to `end`.

    Args:
        skip: without any picture that no other refers to. Where packets are lost, a decoder may use such a one after
            all, in place of what is missing.
    """
    start = whole.times[number] or 0
    container, stream = open_stream(path)
    with container:
        if number:
            enter(container, stream, start)
        if skip:
            stream.codec_context.skip_frame = "NONREF"
        stored: list[int | None] = []
        upcoming = number
        for picture in pictures(_noted(packets(container, stream, path), stored), path):
            if upcoming == number and picture.pts is not None and picture.pts < start:
                continue
            place = whole.place.get(picture.pts, -1)
            if place < upcoming or (place > upcoming and not skip):
                return False
            if place >= end:
                break
            if digest(picture) != whole.digests[place]:
                return False
            upcoming = place + 1
            if upcoming == end:
                break
        known = [time for time in stored if time is not None]
        first = whole.stored.index(known[0]) if known and known[0] in whole.stored else -1
        return (upcoming == end or skip) and first >= 0 and known == whole.stored[first : first + len(known)]


def _noted(source: Iterator[Any], stored: list[int | None]) -> Iterator[Any]:
    for packet in source:
        if packet.size and not packet.is_discard:
            stored.append(packet.pts)
        yield packet


def _order(whole: Survey) -> int | None:
    """Places by which the orders of storing and showing differ at most; None where that cannot be told.

    It can where packets and pictures correspond by their times and all pictures have one shape.
    """
    times = whole.times
    # What a decoder puts in place of damaged parts depends on all that it decoded before.
    if whole.damaged or len(whole.shapes) != 1 or None in times or None in whole.stored:
        return None
    known: list[int] = [time for time in times if time is not None]
    if any(later <= earlier for earlier, later in itertools.pairwise(known)):
        return None
    if sorted(time for time in whole.stored if time is not None) != known:
        return None
    return max(abs(number - whole.place[time]) for number, time in enumerate(whole.stored) if time is not None)


def _entries(whole: Survey) -> list[int]:
    """The frames of keyframes, thinned out; the first frame is always one."""
    spacing = max(SPACING, -(-len(whole.times) // MAX_ENTRIES))
    chosen = [0]
    for number in sorted(whole.place[key] for key in whole.keyframes if key in whole.place):
        if number - chosen[-1] >= spacing:
            chosen.append(number)
    return chosen


def _declared(container: Any, stream: Any) -> int:
    """Pictures that the header lists: in ISO media those that its edit list leaves, some only to be decoded."""
    declared = int(stream.frames)
    listed = len(stream.index_entries) if "mov" in container.format.name.split(",") else 0
    return min(declared, listed) if listed else declared


@dataclass
class _Counts:
    """Packets that no picture is expected of."""

    early: int = 0
    unshown: int = 0
    delivered: int = 0
    keyframe_seen: bool = False
    last: int | None = None

    def expected(self, declared: int, numbered: bool) -> int:
        """Pictures that the header promises to show.

        Those that it marks as not to be shown, empty chunks, and what stands before the first keyframe of a clip cut by
        stream copy are left out.

        Args:
            numbered: times are the places in the file's index, of which empty chunks take some.
        """
        empty = max(0, self.last + 1 - self.delivered) if numbered and self.last is not None else 0
        return max(0, declared - self.early - self.unshown - empty)


def _watch(source: Iterator[Any], result: Survey, counts: _Counts) -> Iterator[Any]:
    for packet in source:
        if packet.size:
            counts.delivered += 1
            counts.keyframe_seen = counts.keyframe_seen or packet.is_keyframe
            counts.early += not counts.keyframe_seen
            counts.unshown += packet.is_discard and counts.keyframe_seen
            counts.last = packet.dts if packet.dts is not None else counts.last
            if not packet.is_discard:
                result.stored.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    result.keyframes.append(packet.pts)
        yield packet


def _describe(result: Survey, shape: tuple[int, int, bytes]) -> None:
    width, height, matrix = shape
    turned = orientation(matrix)
    result.width, result.height = (height, width) if turned.swaps_sides else (width, height)
    result.rotation = turned.rotation


class PictureDigest:
    """A short name for a decoded picture's pixels as they are stored, without the gaps between rows."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def rgb(self, picture: Any) -> Any:
        """The picture as packed RGB.

        Raises:
            VideoError: its format cannot become RGB.
        """
        import av

        try:
            return self._reformatter.reformat(picture, format="rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            told = f"pictures of format {picture.format.name} cannot become RGB: {first_line(error)}"
            raise VideoError("undecodable", told) from None

    def __call__(self, picture: Any) -> bytes:
        kind = picture.format
        plain = kind.is_planar and not kind.has_palette and len(picture.planes) == len(kind.components)
        if not plain:
            # Packed formats: as RGB, which all of them have in common.
            picture = self.rgb(picture)
        state = xxhash.xxh3_128(f"{kind.name} {picture.width} {picture.height}".encode())
        for number, plane in enumerate(picture.planes):
            width = plane.width * ((kind.components[number].bits + 7) // 8) if plain else 3 * picture.width
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :width]
            state.update(rows.tobytes())
        digest: bytes = state.digest()
        return digest
