"""What a file holds, found by one sequential pass over all its pictures."""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import xxhash

from pipeline.data.arrays import U8
from pipeline.data.video.display import UPRIGHT, display_matrix, orientation
from pipeline.data.video.reader import VideoError, first_line
from pipeline.data.video.shrink import shrunk_size
from pipeline.data.video.stream import open_stream, packets, pictures, plane_rows, rate_by_packets, rate_of, rgb_rows

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

    from pipeline.data.video.stream import VideoPacket

#: Headers are often off by a frame or two, and then the true length is used. A file that lost more than a tenth of its
#: frames is a damaged one.
MISSING_SHARE = 0.1


@dataclass
class PacketTally:
    """The packets of a pass.

    Attributes:
        stored: times of those that are to be shown, in the order of storing.
        keyframes: times of the keyframes among them.
        early: those before the first keyframe, as a clip cut by stream copy begins.
        unshown: later ones that the header marks as not to be shown.
        last: the place in the file's index of the last one, where such places are its times.
    """

    stored: list[int | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    delivered: int = 0
    early: int = 0
    unshown: int = 0
    last: int | None = None
    _keyframe_seen: bool = False

    def count(self, source: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
        """Hand packets on and note what they are."""
        for packet in source:
            if packet.size:
                self._add(packet)
            yield packet

    def _add(self, packet: VideoPacket) -> None:
        self.delivered += 1
        self._keyframe_seen = self._keyframe_seen or packet.is_keyframe
        self.early += not self._keyframe_seen
        self.unshown += packet.is_discard and self._keyframe_seen
        self.last = packet.dts if packet.dts is not None else self.last
        if not packet.is_discard:
            self.stored.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                self.keyframes.append(packet.pts)

    def expected(self, declared: int, numbered: bool) -> int:
        """Pictures that a header which declares so many promises to show: without `early`, `unshown`, empty chunks.

        Args:
            numbered: times are the places in the file's index, of which empty chunks take some.
        """
        empty = max(0, self.last + 1 - self.delivered) if numbered and self.last is not None else 0
        return max(0, declared - self.early - self.unshown - empty)


@dataclass(frozen=True)
class Survey:
    """The record of a sequential pass.

    Attributes:
        times: of the pictures, in the stream's units.
        digests: equal where pictures are.
        shapes: (width, height, display matrix) of any picture.
        damaged: how many pictures the decoder says are.
        expected: the number of pictures that the header promises, 0 where it promises none.
        width, height, rotation: of the first picture as shown, as of `VideoReader`.
    """

    times: list[int | None]
    digests: list[bytes]
    shapes: set[tuple[int, int, bytes]]
    packets: PacketTally
    progressive: bool
    damaged: int
    codec: str
    expected: int
    width: int
    height: int
    rotation: int
    fps: float

    @functools.cached_property
    def place(self) -> dict[int | None, int]:
        """The number of each picture by its time."""
        return {time: number for number, time in enumerate(self.times)}

    @property
    def repeated_run(self) -> int:
        """Length of the longest run of equal neighbours; 1 where all differ."""
        return max(sum(1 for _ in run) for _, run in itertools.groupby(self.digests))


class Watcher(Protocol):
    """Somebody who sees some frames of a pass while they are there, so that they need not be decoded again."""

    #: [pixels] Larger frames may be shrunk to it before they are shown; None: they are shown as readers give them.
    short_side: int | None

    def begin(self, rate: float, expected: int) -> None:
        """Told first: frames per second, and number of frames as the header says; 0 where nothing tells."""

    def wants(self, number: int) -> bool:
        """Whether the frame of this number is to be shown."""

    def frame(self, frame_HWC: U8) -> None:
        """A frame as it is shown, uint8 RGB [H, W, 3]; it may be read until this returns."""


def survey(path: str, watcher: Watcher | None = None) -> Survey:
    """Decode a file from its first picture to its last; the watcher sees those that it wants.

    Raises:
        VideoError: it does not open, does not decode to its end, has no picture, or is turned askew.
    """
    from av.video.reformatter import VideoReformatter

    container, stream = open_stream(path)
    with container:
        times: list[int | None] = []
        digests: list[bytes] = []
        shapes: set[tuple[int, int, bytes]] = set()
        (width, height), stored, turn = (0, 0), (0, 0), UPRIGHT
        matrix, angle, asked = b"", 0, False
        progressive, damaged = True, 0
        digest, tally, as_read = PictureDigest(), PacketTally(), VideoReformatter()
        if watcher is not None:
            watcher.begin(rate_by_packets(path), _declared(container, stream))
        try:
            for picture in pictures(tally.count(packets(container, stream, path)), path):
                if asked:
                    gc.collect(0)  # a picture that was asked for its matrix holds itself in a circle
                    asked = False
                if not digests or picture.key_frame or picture.rotation != angle:
                    matrix, angle, asked = display_matrix(picture), picture.rotation, True  # where it may have changed
                shape = (picture.width, picture.height, matrix)
                if not digests:
                    turn = orientation(shape[2])
                    stored = shape[:2]
                    width, height = stored[::-1] if turn.swaps_sides else stored
                    digest.rgb(picture)  # readers will: a format or a size that cannot become RGB is found now
                if watcher is not None and watcher.wants(len(digests)):
                    side = watcher.short_side
                    rgb = rgb_rows(as_read, picture, *stored) if side is None else _small_rgb(picture, side)
                    watcher.frame(turn.shown(rgb))
                shapes.add(shape)
                times.append(picture.pts)
                digests.append(digest(picture))
                progressive &= not picture.interlaced_frame
                damaged += picture.is_corrupt
        except VideoError as error:
            declared = _declared(container, stream)
            if 0 < len(digests) < declared * (1 - MISSING_SHARE) and error.reason == "undecodable":
                message = f"{len(digests)} of {declared} declared frames decode, then: {error}"
                raise VideoError("declared_more_than_decoded", message) from None
            raise
        if not digests:
            raise VideoError("no_frames", "not one frame decodes")
        if damaged > MISSING_SHARE * len(digests):
            raise VideoError("undecodable", f"{damaged} of {len(digests)} pictures are damaged")
        return Survey(
            times=times,
            digests=digests,
            shapes=shapes,
            packets=tally,
            progressive=progressive,
            damaged=damaged,
            codec=stream.codec_context.name,
            expected=tally.expected(_declared(container, stream), container.format.name == "avi"),
            width=width,
            height=height,
            rotation=turn.rotation,
            fps=rate_of(times, stream),
        )


def _small_rgb(picture: VideoFrame, short_side: int) -> U8:
    """A picture as RGB as it is stored, its short side at most so many pixels."""
    height, width = shrunk_size(picture.height, picture.width, short_side)
    small = picture.reformat(width, height, format="rgb24", interpolation="AREA", threads=1)
    return plane_rows(small.planes[0])[:height, : 3 * width].reshape(height, width, 3)


def _declared(container: InputContainer, stream: VideoStream) -> int:
    """Pictures that the header lists: in ISO media those that its edit list leaves, some only to be decoded."""
    listed = len(stream.index_entries) if "mov" in container.format.name.split(",") else 0
    return min(stream.frames, listed) if listed else stream.frames


class PictureDigest:
    """A short name for a decoded picture's pixels as they are stored, without the gaps between rows."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def rgb(self, picture: VideoFrame) -> VideoFrame:
        """The picture as packed RGB.

        Raises:
            VideoError: its format cannot become RGB.
        """
        import av

        try:
            return self._reformatter.reformat(picture, format="rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            message = f"pictures of format {picture.format.name} cannot become RGB: {first_line(error)}"
            raise VideoError("undecodable", message) from None

    def __call__(self, picture: VideoFrame) -> bytes:
        kind = picture.format
        plain = kind.is_planar and not kind.has_palette and len(picture.planes) == len(kind.components)
        if not plain:
            # Packed formats: as RGB, which all of them have in common.
            picture = self.rgb(picture)
        state = xxhash.xxh3_128(f"{kind.name} {picture.width} {picture.height}".encode())
        for number, plane in enumerate(picture.planes):
            width = plane.width * ((kind.components[number].bits + 7) // 8) if plain else 3 * picture.width
            state.update(plane_rows(plane)[: plane.height, :width].tobytes())
        return state.digest()
