"""One pass over a video's best stream with PyAV: what the numbers of all frames are counted by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.video.reader import VideoError, first_line

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.plane import VideoPlane
    from av.video.reformatter import VideoReformatter

    VideoPacket: TypeAlias = Packet[VideoStream]

#: Text files that FFmpeg would follow to other files or to the network.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")

#: [bytes] A larger file's packets are not counted before it is decoded.
COUNTED = 64 << 20
#: [s] From one picture to the next: beyond it the clock was set, as in joined recordings (FFmpeg's limit, too).
LONGEST_PAUSE = 10.0


def open_stream(path: str) -> tuple[InputContainer, VideoStream]:
    """An open container and its best video stream, which decodes in one thread.

    Args:
        path: absolute, so that FFmpeg never sees a protocol.

    Raises:
        VideoError: it cannot be opened, or holds no video stream that can be decoded.
    """
    import av

    try:
        # The whitelist: no file may make FFmpeg open a network address.
        container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError, UnicodeEncodeError) as error:
        raise VideoError(_why(error, path), f"PyAV cannot open it: {first_line(error)}") from None
    try:
        stream = best_stream(container)
        if stream.codec_context is None:
            raise VideoError("unsupported_codec", "PyAV has no decoder for its codec")
    except VideoError:
        container.close()
        raise
    stream.codec_context.thread_count = 1
    return container, stream


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream that FFmpeg takes for the main one.

    Raises:
        VideoError: there is none.
    """
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None:
        raise VideoError("no_video_stream", "the file holds no video stream")
    return stream


def packets(container: InputContainer, stream: VideoStream, path: str) -> Iterator[VideoPacket]:
    """The stream's packets as stored; the last one is empty and flushes the decoder.

    Raises:
        VideoError: the file cannot be read on.
    """
    import av

    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise _undecodable(error, path) from None


def pictures(packets: Iterator[VideoPacket], path: str) -> Iterator[VideoFrame]:
    """The decoded pictures of packets in the order of presentation.

    What stands before the first keyframe may not decode (recordings and clips cut by stream copy begin so): it is left
    out, as players do.

    Raises:
        VideoError: a later packet does not decode, or not one does.
    """
    import av

    started, decoded = False, False
    failure: Exception | None = None
    for packet in packets:
        started = started or packet.is_keyframe
        try:
            decoded_now = packet.decode()
        except av.FFmpegError as error:
            if started:
                raise _undecodable(error, path) from None
            failure = failure or error
            continue
        decoded = decoded or bool(decoded_now)
        yield from decoded_now
    if failure is not None and not decoded:
        raise _undecodable(failure, path) from None


def enter(container: InputContainer, stream: VideoStream, time: int) -> None:
    """Go to the keyframe at or before a time; on a container just opened, as ingest does it when it proves entries."""
    container.seek(time, stream=stream, any_frame=False, backward=True)


def plane_rows(plane: VideoPlane) -> U8:
    """The bytes of one plane as they lie in memory, [rows, bytes of a row]: FFmpeg pads both."""
    # A plane is a buffer, which its type does not say.
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]


def rgb_rows(reformatter: VideoReformatter, picture: VideoFrame, width: int, height: int) -> U8:
    """A picture in RGB at a size, uint8 [height, width, 3], as every reader gives it; perhaps with gaps between rows.

    Args:
        reformatter: one for all frames: to set up a conversion costs five times the conversion of a 340x256 frame.
    """
    # One thread: the default takes every core, and on a busy machine waits for them.
    rgb = reformatter.reformat(picture, width, height, format="rgb24", threads=1)
    # FFmpeg pads the rows; leaving the gaps saves a copy of every frame.
    return plane_rows(rgb.planes[0])[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


def rate(stream: VideoStream) -> float:
    """Frames per second as the header says, 0 where it does not: FFmpeg then guesses one frame a tick of the clock."""
    guessed = stream.guessed_rate
    if guessed and stream.time_base and guessed * stream.time_base == 1:
        guessed = None
    return float(stream.average_rate or guessed or 0)


def rate_of(times: Sequence[int | None], stream: VideoStream) -> float:
    """Frames per second of pictures shown at these times: the header's where they bear it out, 0 where nothing tells.

    A header may be off by a frame, and times are rounded (to 1 ms in Matroska): that is no other rate. What Matroska,
    Flash and transport streams say is a claim, which a varying rate does not keep.
    """
    claimed, tick = rate(stream), float(stream.time_base or 0)
    known = [time for time in times if time is not None]
    if len(known) < max(2, len(times)) or not tick:
        return claimed
    frames, span = len(known) - 1, (max(known) - min(known)) * tick
    shown = all(0 < (later - earlier) * tick < LONGEST_PAUSE for earlier, later in itertools.pairwise(known))
    if claimed and (not shown or round(abs(span * claimed - frames)) <= 1):
        return claimed
    return frames / span if span > 0 else claimed


def rate_by_packets(path: str) -> float:
    """The rate of a file of moderate size by its packets' times, without decoding; of other ones the header's.

    Raises:
        VideoError: it cannot be opened.
    """
    container, stream = open_stream(path)
    with container:
        if container.size > COUNTED:
            return rate(stream)
        try:
            stored = [one.pts for one in packets(container, stream, path) if one.size and not one.is_discard]
        except VideoError:
            return rate(stream)  # decoding will say why, and give what can be read
        return rate_of(in_order(stored), stream)


def in_order(stored: Sequence[int | None]) -> list[int]:
    """Times of packets in the order in which their pictures are shown; [] where one has none."""
    known = sorted(time for time in stored if time is not None)
    return known if len(known) == len(stored) else []


def sniff(path: str) -> None:
    """Refuse what needs no decoder to be refused.

    Raises:
        VideoError: no such file, not readable, empty, or a playlist.
    """
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


def _undecodable(error: Exception, path: str) -> VideoError:
    reason = _why(error, path)
    if reason in ("truncated", "not_a_video"):  # it was recognised: what is wrong are its data
        reason = "undecodable"
    return VideoError(reason, f"PyAV cannot decode it: {first_line(error)}")


def _why(error: Exception, path: str) -> str:
    import av

    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, av.DecoderNotFoundError):
        return "unsupported_codec"
    if isinstance(error, (av.InvalidDataError, av.EOFError, ValueError)):
        return "truncated" if _looks_like_video(path) else "not_a_video"
    if isinstance(error, av.OSError):
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
