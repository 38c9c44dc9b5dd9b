"""Video files in and out: decord reads, PyAV is the second reader and the writer.

Both readers decode the same stream (the best one of several), apply the container's rotation the same way and
return RGB. Shapes: T frames, H height, W width.

decord finds single frames fast, but it cannot open AV1, files without a duration or 1x1 pictures, and where fewer
frames decode than the header declares it repeats frames silently. Ingest finds that out once for each file and
records in the manifest which reader to use. For one pass over a whole file PyAV is the faster one (`open_swift`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pipeline.data.files import atomic_path
from pipeline.errors import EverestError

ReaderName = Literal["decord", "pyav"]
T = TypeVar("T")

#: Frames that decord's `pick` decodes together: call overhead against memory.
CHUNK = 16

#: FFmpeg's names of containers with an index of keyframes: ISO media (MP4, MOV) and Matroska (WebM).
INDEXED = {"mp4", "matroska"}

#: x264's macroblock tree gives other bytes now and then for small pictures (15 of 100 files of 64 pixels with
#: version 165's vector code), so it is off: equal frames must give equal files.
X264 = {"x264-params": "mbtree=0"}

#: Text files that FFmpeg would follow to other files or to the network.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")


class VideoError(EverestError):
    """A video that cannot be read. `reason` is a code of `pipeline.data.reasons`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class VideoReader:
    """An open video. Use as a context manager, or let it go out of scope.

    Attributes:
        num_frames: frames that the file declares (decoded and counted where it declares none).
        fps: average frames per second.
        width, height: in pixels, after rotation.
        rotation: degrees, counter-clockwise, that were applied: 0, 90, 180 or 270.
        reader: "decord" or "pyav".
    """

    reader: ReaderName
    num_frames: int
    fps: float
    width: int
    height: int
    rotation: int

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 RGB [len(indices), H, W, 3]; indices in any order, repeats allowed.

        Raises:
            VideoError: a frame does not decode, or an index is outside the file.
        """
        raise NotImplementedError

    def all_frames(self) -> Iterator[np.ndarray]:
        """Every frame in order, uint8 RGB [H, W, 3], perhaps read-only, in one pass; read nothing else meanwhile."""
        raise NotImplementedError

    def pick(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of these ascending numbers, uint8 RGB [H, W, 3], in one pass; no other frame becomes RGB.

        Raises:
            VideoError: a frame does not decode.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, indices: Sequence[int]) -> list[int]:
        wanted = [int(index) for index in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise VideoError(
                "declared_more_than_decoded",
                f"frames {min(wanted)} to {max(wanted)} were asked for, the video has {self.num_frames}. "
                "Cure: run the download stage again, so that the manifest records its true length.",
            )
        return wanted


def open_video(path: Path | str, reader: Literal["auto", "decord", "pyav"] = "auto") -> VideoReader:
    """Open a local video file.

    Args:
        path: any file name; it is never taken for an address or an option.
        reader: "auto" tries decord, then PyAV; the one used is in `.reader`.

    Raises:
        VideoError: no reader opens it; `.reason` says why.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - a leading "/" keeps FFmpeg from seeing a protocol
    _sniff(absolute)
    if reader == "pyav":
        return _PyavReader(absolute)
    if reader == "decord":
        return _DecordReader(absolute)
    try:
        return _DecordReader(absolute).probed()
    except VideoError as error:
        try:
            return _PyavReader(absolute)
        except VideoError as second:
            # PyAV's reason is the finer one; decord knows one kind of error only.
            raise VideoError(second.reason, f"{second} (decord: {error})") from None


def open_swift(path: Path | str, frames: int) -> VideoReader:
    """Open a video, of which decord decodes `frames` frames, to `pick` ascending frames of it with PyAV.

    PyAV's FFmpeg is newer and takes about a quarter less time than decord's. It is taken only for what both decode
    to the same bytes: progressive 8-bit H.264 in 4:2:0 of even size, in MP4, MOV or Matroska. "The same" as in
    decord's pass over the whole file: with open GOPs or intra refresh decord's own jumps give other bytes. Its
    `pick` leaves out frames that neither are wanted nor have others built on them (`_pick_by_time`).

    Raises:
        VideoError: the video is of another kind or holds another number of frames; so does `pick` where a frame does
            not decode. Cure: `open_video`.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100
    _sniff(absolute)
    reader = _PyavReader(absolute)
    if not reader.same_as_decord or reader.declared not in (0, frames):
        reader.close()
        raise VideoError("undecodable", f"{path}: not a kind of video that PyAV and decord decode alike")
    reader.expected = frames
    return reader


def read_swiftly(path: Path, reader: str, frames: int, read: Callable[[VideoReader], T]) -> T:
    """What `read` takes from a video, by the swift reader where it gives the bytes of the manifest's one, else by that.

    Args:
        reader: the manifest's: decord, pyav, or anything else for "auto".
        frames: that the manifest's reader decodes.
        read: called a second time, from the start, where the swift reader fails in it.

    Raises:
        VideoError: the manifest's reader does not read it.
    """
    if reader == "decord":
        try:
            with open_swift(path, frames) as swift:
                return read(swift)
        except VideoError:
            pass  # The manifest says which reader counts; what that one says of the video is reported.
    named: Any = reader if reader in ("decord", "pyav") else "auto"
    with open_video(path, named) as video:
        return read(video)


def plain_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Frames as one reads them without this module: open with decord, take a batch. For benchmarks."""
    import decord

    frames: np.ndarray = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    return frames


def write_video(
    path: Path,
    frames_THWC: np.ndarray,
    fps: float = 25.0,
    codec: str = "libx264",
    crf: int = 18,
    preset: str = "veryfast",
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames to a file whose suffix names the container; equal input gives equal bytes.

    Args:
        path: appears only when complete.
        frames_THWC: uint8 RGB [T, H, W, 3].
        options: further encoder options (`{"g": "12"}`).

    Raises:
        ValueError: wrong shape or type, or no frame.
    """
    import av

    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 [T,H,W,3] frames, got {frames_THWC.dtype} {list(frames_THWC.shape)}")
    if not len(frames_THWC):
        raise ValueError("a video needs at least one frame, got none")
    height, width = frames_THWC.shape[1:3]
    with atomic_path(Path(path)) as temporary:
        # bitexact: no library versions or dates in the file. One thread: x264's output depends on the number.
        container = av.open(str(temporary), "w", options={"fflags": "+bitexact"})
        with container:
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000))
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
            own = {"crf": str(crf), "preset": preset} if codec.startswith("libx26") else {}
            own |= X264 if codec == "libx264" else {}
            stream.options = {"threads": "1", "flags": "+bitexact"} | own | (options or {})
            for frame in frames_THWC:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def preload() -> None:
    """Load both decoders' libraries now, for a process whose clock starts with its first file."""
    import av  # noqa: F401
    import decord  # noqa: F401


class _DecordReader(VideoReader):
    def __init__(self, path: str) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.reader = "decord"
        self._name = path
        if _is_untimed(path):
            raise VideoError("undecodable", "decord misplaces the last frame of an AVI with B-frames")
        try:
            # One thread: files are spread over processes, and it bounds the memory.
            self._video = decord.VideoReader(path, num_threads=1)
            self.num_frames = len(self._video)
            if not self.num_frames:
                raise VideoError("no_frames", f"{path}: decord finds no frame")
            self.fps = float(self._video.get_avg_fps())
        except (decord.DECORDError, IndexError, RuntimeError, UnicodeEncodeError) as error:
            raise VideoError("undecodable", f"decord cannot open it: {_first_line(error)}") from None
        self._rotation: int | None = None
        self._size: tuple[int, int] | None = None

    def probed(self) -> _DecordReader:
        """This reader, after one frame decoded."""
        import decord

        try:
            # As a batch: some widths (48) fail there only.
            self._size = self._video.get_batch([0]).shape[1:3]
        except (decord.DECORDError, IndexError, RuntimeError) as error:
            raise VideoError("undecodable", f"decord cannot open it: {_first_line(error)}") from None
        self._video.seek(0)
        return self

    def _known_size(self) -> tuple[int, int]:
        # decord knows the size of a rotated video only from a decoded frame, which costs as much as opening it.
        if self._size is None:
            self.probed()
        assert self._size is not None
        return self._size

    @property
    def height(self) -> int:  # type: ignore[override]
        return self._known_size()[0]

    @property
    def width(self) -> int:  # type: ignore[override]
        return self._known_size()[1]

    @property
    def rotation(self) -> int:  # type: ignore[override]
        """decord does not tell the angle that it applied; PyAV reads it from the header."""
        if self._rotation is None:
            with _PyavReader(self._name) as other:
                self._rotation = other.rotation
        return self._rotation

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted = self._check(indices)
        if not wanted:
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        import decord

        try:
            frames: np.ndarray = self._video.get_batch(wanted).asnumpy()
        except (decord.DECORDError, IndexError, RuntimeError) as error:
            raise VideoError("undecodable", f"decord cannot decode a frame: {_first_line(error)}") from None
        return frames

    def all_frames(self) -> Iterator[np.ndarray]:
        import decord

        # As a batch: it goes back to the start, and some widths (48) fail there only. From then on each frame as decord
        # holds it: a batch and an array of our own would be two copies of every frame, a seventh of ingest's time.
        first = self.frames([0])[0]
        self._size = first.shape[:2]
        yield first
        for number in range(1, self.num_frames):
            try:
                frame = np.asarray(_Borrowed(self._video.next()))
            except StopIteration:
                told = f"decord finds {number} of {self.num_frames} frames"
                raise VideoError("undecodable", told) from None
            except (decord.DECORDError, RuntimeError) as error:
                raise VideoError("undecodable", f"decord cannot decode a frame: {_first_line(error)}") from None
            yield frame

    def pick(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(wanted), CHUNK):
            yield from self.frames(wanted[start : start + CHUNK])

    def close(self) -> None:
        self._video = None


class _Borrowed:
    """decord's own memory of a uint8 frame, for `np.asarray`: the array keeps this, and this keeps the frame."""

    def __init__(self, frame: Any) -> None:
        held = frame.handle.contents
        self._frame = frame
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": frame.shape,  # without gaps between rows, as a batch copies it
            "data": (held.data + held.byte_offset, True),  # read-only
        }


class _PyavReader(VideoReader):
    def __init__(self, path: str) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.reader = "pyav"
        # One for all frames: to set up a conversion costs five times the conversion of a 340x256 frame.
        self._reformatter = VideoReformatter()
        #: Frames that the file must hold, where frames may be told apart by their times; else None.
        self.expected: int | None = None
        self._name = path
        self._closed = False
        try:
            # The whitelist: no file may make FFmpeg open a network address.
            self._container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError, UnicodeEncodeError) as error:
            raise VideoError(_why(error, path), f"PyAV cannot open it: {_first_line(error)}") from None
        self._stream: Any = self._container.streams.best("video")
        if self._stream is None:
            self.close()
            raise VideoError("no_video_stream", "the file holds no video stream")
        if self._stream.codec_context is None:
            self.close()
            raise VideoError("unsupported_codec", "no decoder for its codec in either reader")
        self._stream.codec_context.thread_count = 1
        first = next(self._decoded(), None)
        if first is None:
            self.close()
            raise VideoError("no_frames", "not one frame decodes")
        self.rotation = int(first.rotation) % 360
        self._size = (first.width, first.height)
        even = first.width % 2 == 0 and first.height % 2 == 0
        known = self._stream.codec_context.name == "h264" and first.format.name in ("yuv420p", "yuvj420p")
        # Interlaced pictures become RGB differently; streams without an index (MPEG-TS) find their start differently.
        plain = not first.interlaced_frame and INDEXED & set(self._container.format.name.split(","))
        self.same_as_decord = bool(even and known and plain)
        turned = self.rotation in (90, 270)
        self.width, self.height = self._size[::-1] if turned else self._size
        self.fps = _rate(self._stream)
        self.duration = self._stream.duration or self._container.duration
        self.declared = int(self._stream.frames)
        self._count: int | None = None

    @property
    def num_frames(self) -> int:  # type: ignore[override]
        """Declared frames; where none are declared, the file is decoded once to count them."""
        if self.declared:
            return self.declared
        if self._count is None:
            self._count = sum(1 for _ in self._decoded())
        return self._count

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted = self._check(indices)
        found: dict[int, np.ndarray] = {}
        if wanted:
            last, needed = max(wanted), set(wanted)
            for position, frame in enumerate(self._decoded()):
                if position in needed:
                    found[position] = self._picture(frame)
                if position == last:
                    break
            if len(found) < len(needed):
                raise VideoError(
                    "declared_more_than_decoded",
                    f"{len(needed) - len(found)} of the frames asked for do not decode, "
                    f"though the file declares {self.num_frames}",
                )
        result = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        for row, position in enumerate(wanted):
            result[row] = found[position]
        return result

    def all_frames(self) -> Iterator[np.ndarray]:
        for frame in self._decoded():
            yield self._picture(frame)

    def pick(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        if self.expected is not None:
            yield from self._pick_by_time(wanted)
            return
        waiting = iter(wanted)
        upcoming = next(waiting, None)
        for number, frame in enumerate(self._decoded()):
            if upcoming is None:
                return
            if number == upcoming:
                yield self._picture(frame)
                upcoming = next(waiting, None)
        if upcoming is not None:
            raise VideoError("declared_more_than_decoded", f"frame {upcoming} does not decode")

    def _pick_by_time(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """As `pick`. Frame n is the one with the n-th display time of all packets. Decoding begins at the last keyframe
        that is shown no later than the first wanted frame, and ends with the last one; a packet that is not wanted is
        skipped by the decoder where no other frame refers to it (most B-frames), which in H.264 changes no other frame.
        """
        import av

        if not wanted:
            return
        codec = self._stream.codec_context
        try:
            self._rewind()
            packets = [
                p for p in self._container.demux(self._stream) if p.size and p.pts is not None and not p.is_discard
            ]
            times = sorted({packet.pts for packet in packets})
            if len(times) != self.expected:
                raise VideoError("undecodable", f"{len(times)} packets hold {self.expected} frames")
            waiting = [times[number] for number in wanted]
            needed, place = set(waiting), 0
            start = max((p.pts for p in packets if p.is_keyframe and p.pts <= waiting[0]), default=times[0])
            del packets
            if start > times[0]:
                self._container.seek(start, stream=self._stream, any_frame=False, backward=True)
            else:
                self._rewind()
            for packet in self._container.demux(self._stream):
                codec.skip_frame = "DEFAULT" if packet.pts in needed or not packet.size else "NONREF"
                for frame in packet.decode():
                    if frame.pts == waiting[place]:
                        yield self._picture(frame)
                        place += 1
                        if place == len(waiting):
                            return
        except av.FFmpegError as error:
            raise VideoError("undecodable", f"PyAV cannot decode it: {_first_line(error)}") from None
        finally:
            codec.skip_frame = "DEFAULT"
        raise VideoError("declared_more_than_decoded", f"frame {wanted[place]} does not decode")

    def _decoded(self) -> Iterator[Any]:
        import av

        try:
            self._rewind()
            yield from self._container.decode(self._stream)
        except av.FFmpegError as error:
            reason = _why(error, self._name)
            if reason in ("truncated", "not_a_video"):  # it was recognised: what is wrong are its data
                reason = "undecodable"
            raise VideoError(reason, f"PyAV cannot decode it: {_first_line(error)}") from None

    def _rewind(self) -> None:
        import av

        if getattr(self, "_started", False):
            try:
                self._container.seek(0, stream=None, any_frame=False, backward=True)
            except av.FFmpegError:
                # Not seekable (raw streams, some webm): open it again.
                self._container.close()
                self._container = av.open(self._name, options={"protocol_whitelist": "file"}, metadata_errors="replace")
                self._stream = self._container.streams.best("video")
                self._stream.codec_context.thread_count = 1
        self._started = True

    def _picture(self, frame: Any) -> np.ndarray:
        # Where the size changes within the stream, every frame gets the size of the first, as decord does.
        # One thread: the default takes every core, and on a busy machine waits for them.
        rgb = self._reformatter.reformat(frame, self._size[0], self._size[1], format="rgb24", threads=1)
        # FFmpeg pads the rows; leaving the gaps saves a copy of every frame.
        plane: Any = rgb.planes[0]
        rows: np.ndarray = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        picture = rows[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        turns = self.rotation // 90
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._container.close()


def _sniff(path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - `path` is a plain string on purpose
            head = file.read(16)
    except FileNotFoundError:
        raise VideoError("missing", f"{path} does not exist") from None
    except OSError as error:
        raise VideoError("unreadable", f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise VideoError("empty", f"{path} is empty")
    if head.lstrip(b"\xef\xbb\xbf").startswith(PLAYLISTS):
        raise VideoError("not_a_video", f"{path} is a playlist, not a video")


def _is_untimed(path: str) -> bool:
    """AVI stores no display times. With B-frames decord then returns the last frame but one for the last, now
    and then (3 of 75 reads of a real clip), depending on its threads' timing."""
    import av

    with open(path, "rb") as file:  # noqa: PTH123
        if file.read(4) != b"RIFF":
            return False
    try:
        with av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            stream: Any = container.streams.best("video")
            return bool(stream is not None and stream.codec_context and stream.codec_context.has_b_frames)
    except (av.FFmpegError, OSError, ValueError):
        return False  # whether it opens at all is for the readers to say


def _rate(stream: Any) -> float:
    """Frames per second, 0 where nothing tells: FFmpeg then guesses one frame for each tick of the clock."""
    guessed = stream.guessed_rate
    if guessed and stream.time_base and guessed * stream.time_base == 1:
        guessed = 0
    return float(stream.average_rate or guessed or 0)


def _why(error: Exception, path: str) -> str:
    import av

    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, av.DecoderNotFoundError):
        return "unsupported_codec"
    if isinstance(error, (av.InvalidDataError, av.EOFError, ValueError)):
        return "truncated" if _looks_like_video(path) else "not_a_video"
    if isinstance(error, av.OSError if hasattr(av, "OSError") else OSError):
        return "unreadable"
    return "undecodable"


def _looks_like_video(path: str) -> bool:
    """The magic numbers of ISO media, Matroska, RIFF, MPEG and Flash: a damaged file keeps them."""
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(12)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") or head[:4] in (
        b"\x1aE\xdf\xa3",
        b"RIFF",
        b"FLV\x01",
        b"\x00\x00\x01\xba",
        b"OggS",
        b"0&\xb2u",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
