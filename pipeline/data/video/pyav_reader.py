"""PyAV's reader: counts pictures from the start, or enters a file where ingest has proven that it may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from pipeline.data.arrays import U8
from pipeline.data.frame_step import ticks
from pipeline.data.video.display import UPRIGHT, display_matrix, orientation
from pipeline.data.video.jumps import Jumps
from pipeline.data.video.reader import Timed, VideoError, VideoReader, first_line, missing_frame, picked
from pipeline.data.video.stream import enter, open_stream, packets, pictures, rate, rate_by_packets, rgb_rows

if TYPE_CHECKING:
    from av import VideoFrame

    from pipeline.data.video.stream import VideoPacket


class PyavReader(VideoReader):
    def __init__(self, path: str, frames: int = 0, jumps: Jumps | None = None) -> None:
        """Open a file.

        Args:
            path: absolute.
            frames: pictures of a sequential pass, where somebody knows; else they are counted when asked for.
            jumps: proven for this file by ingest.

        Raises:
            VideoError: it does not open; without `jumps` also where not one picture decodes.
        """
        from av.video.reformatter import VideoReformatter

        self.reader = "pyav"
        self._reformatter = VideoReformatter()
        self._path = path
        self._frames = frames
        self._jumps = jumps or Jumps()
        self._size: tuple[int, int] | None = None
        self._orientation = UPRIGHT
        #: A pass that has given its first picture only, to be gone on with.
        self._begun: Iterator[VideoFrame] | None = None
        self._fresh = True
        self._container, self._stream = open_stream(path)
        self._fps: float | None = None
        if not self._jumps:
            try:
                self._look()
            except VideoError:
                self.close()
                raise

    @property
    def num_frames(self) -> int:  # type: ignore[override]
        """As the manifest says; where it was not told, all pictures are decoded once to count them."""
        if not self._frames:
            self._frames = sum(1 for _ in self._pass())
        return self._frames

    @property
    def fps(self) -> float:  # type: ignore[override]
        if self._fps is None:
            self._fps = rate_by_packets(self._path)
        return self._fps

    @property
    def height(self) -> int:  # type: ignore[override]
        width, height = self._look()
        return width if self._orientation.swaps_sides else height

    @property
    def width(self) -> int:  # type: ignore[override]
        width, height = self._look()
        return height if self._orientation.swaps_sides else width

    @property
    def rotation(self) -> int:  # type: ignore[override]
        self._look()
        return self._orientation.rotation

    def all_frames(self) -> Iterator[U8]:
        for picture in self._pass():
            yield self._rgb(picture)

    def pick(self, wanted: Sequence[int]) -> Iterator[U8]:
        if not len(wanted):
            return
        for picture in self._jump(wanted) if self._jumps else picked(self._pass(), wanted):
            yield self._rgb(picture)

    def every(self, step: int | float) -> Iterator[Timed]:
        # By the stream's own times, as the rate may vary; where they are missing or go back, by the average rate.
        gap = 1 / (rate(self._stream) or 25.0)
        start: float | None = None
        seconds = -gap
        for number, picture in enumerate(self._pass()):
            if picture.time is not None and start is None:
                start = picture.time - number * gap
            stamp = None if picture.time is None or start is None else picture.time - start
            seconds = stamp if stamp is not None and stamp > seconds else seconds + gap
            yield Timed(number, seconds, self._rgb(picture) if ticks(number, step) else None)

    def close(self) -> None:
        self._begun = None
        self._container.close()

    def _jump(self, wanted: Sequence[int]) -> Iterator[VideoFrame]:
        """The pictures of these numbers, from the last proven entry on.

        Frame n is the one with the n-th time of all packets; one that is not wanted is skipped by the decoder where no
        other refers to it (most B-frames), which in H.264 changes no other picture.
        """
        import av

        first, start = self._jumps.before(wanted[0])
        self._reopen()
        if first:
            try:
                enter(self._container, self._stream, start)
            except av.FFmpegError as error:
                raise VideoError("undecodable", f"{self._path} cannot be entered at {start}: {error}") from None
        stored: list[VideoPacket] = []
        times: list[int] = []
        # Pictures are stored out of order, by so many places at most: beyond those no earlier time can come.
        enough = wanted[-1] - first + 2 * self._jumps.reorder + 2
        for packet in packets(self._container, self._stream, self._path):
            stored.append(packet)
            if packet.size and packet.pts is not None and packet.pts >= start and not packet.is_discard:
                times.append(packet.pts)
                if len(times) == enough:
                    break
        times.sort()
        if not times or times[0] != start:
            raise VideoError("undecodable", f"{self._path} is not the file that was verified: no frame at its entry")
        waiting = [times[number - first] for number in wanted if number - first < len(times)]
        place = 0
        try:
            for picture in self._decoded(stored, set(waiting)):
                if place < len(waiting) and picture.pts == waiting[place]:
                    yield picture
                    place += 1
                    if place == len(wanted):
                        return
        finally:
            self._stream.codec_context.skip_frame = "DEFAULT"
        raise missing_frame(wanted[place])

    def _decoded(self, stored: Sequence[VideoPacket], needed: set[int]) -> Iterator[VideoFrame]:
        """The pictures of packets, and those that the decoder still holds back where the packets end before the file.

        Args:
            needed: times of the pictures that must not be skipped.
        """
        import av

        codec = self._stream.codec_context

        def marked() -> Iterator[VideoPacket]:
            for packet in stored:
                if self._jumps.skippable:
                    codec.skip_frame = "DEFAULT" if packet.pts in needed or not packet.size else "NONREF"
                yield packet

        yield from pictures(marked(), self._path)
        if stored and stored[-1].size:
            try:
                yield from codec.decode(None)
            except av.FFmpegError as error:
                raise VideoError("undecodable", f"PyAV cannot decode it: {first_line(error)}") from None

    def _pass(self) -> Iterator[VideoFrame]:
        """The pictures of a pass from the start."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            return begun
        self._reopen()
        return pictures(packets(self._container, self._stream, self._path), self._path)

    def _look(self) -> tuple[int, int]:
        """Width and height as stored, from the first picture, which the next pass begins with."""
        if self._size is None:
            begun = self._pass()
            first = next(begun, None)
            if first is None:
                raise VideoError("no_frames", "not one frame decodes")
            self._see(first)
            self._begun = chain([first], begun)
        assert self._size is not None
        return self._size

    def _see(self, picture: VideoFrame) -> None:
        self._size = (picture.width, picture.height)
        self._orientation = orientation(display_matrix(picture))

    def _reopen(self) -> None:
        # A rewound container is not a new one: transport streams lose their first pictures, others cannot seek.
        self._begun = None
        if not self._fresh:
            self._container.close()
            self._container, self._stream = open_stream(self._path)
        self._fresh = False

    def _rgb(self, picture: VideoFrame) -> U8:
        if self._size is None:
            self._see(picture)
        assert self._size is not None
        # Where the size changes within the stream, every frame gets the size of the first.
        return self._orientation.shown(rgb_rows(self._reformatter, picture, *self._size))
