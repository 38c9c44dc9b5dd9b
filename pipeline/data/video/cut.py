"""Cuts windows of frames out of long videos, with every cut's frames counted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.video.reader import VideoError, first_line
from pipeline.data.video.stream import best_stream
from pipeline.data.video.write import BITEXACT, encoder
from pipeline.system.disk import is_full
from pipeline.system.files import atomic_path

#: x264's quality: no difference is seen at it.
CRF = 18

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer, OutputContainer


def cut_window(source: Path, target: Path, start_frame: int, end_frame: int, fps: int) -> int:
    """Write frames start_frame <= i < end_frame of a video; frame i is the one shown at i / fps seconds.

    Frames are chosen by their own time stamps, so neither a late key frame nor a variable rate shifts the
    window. The written file is decoded again and its frames counted before it gets its name.

    Returns:
        Number of frames written: always end_frame - start_frame.

    Raises:
        VideoError: the video does not open, or has no frame for some of the window.
        DiskFullError: there is no room for it.
    """
    import av

    wanted = end_frame - start_frame
    with atomic_path(target) as temporary:
        try:
            with av.open(str(source.absolute()), options={"protocol_whitelist": "file"}) as video:
                written = _copy(video, temporary, start_frame, end_frame, fps)
            if written != wanted:
                raise VideoError(
                    "declared_more_than_decoded",
                    f"{source.name}: frames {start_frame} to {end_frame} were asked for, {written} of {wanted} exist",
                )
            with av.open(str(temporary)) as check:
                counted = sum(1 for _ in check.decode(video=0))
        except (av.FFmpegError, OSError) as error:
            if is_full(error):
                raise
            raise VideoError("undecodable", f"{source.name} cannot be cut: {first_line(error)}") from None
        if counted != wanted:
            raise VideoError("declared_more_than_decoded", f"{target.name}: wrote {wanted} frames, {counted} decode")
    return wanted


def _copy(video: InputContainer, target: Path, start: int, end: int, fps: int) -> int:
    import av

    stream = best_stream(video)
    origin = stream.start_time or 0
    # A second early: seeking lands on a key frame at or before the wanted time.
    before, tick = max(Fraction(0), Fraction(start, fps) - 1), stream.time_base or Fraction(1, fps)
    video.seek(origin + int(before / tick), stream=stream, backward=True)
    position = start
    with av.open(str(target), "w", format="mp4", options=BITEXACT) as output:
        target_stream = encoder(output, "libx264", fps, CRF, "veryfast")
        target_stream.pix_fmt = "yuv420p"
        held: VideoFrame | None = None
        for frame in video.decode(stream):
            if frame.pts is None:
                raise VideoError("undecodable", "a frame of it has no time")
            index = round((frame.pts - origin) * tick * fps)
            # The frame before stays on screen until this one: it fills the gaps of a variable rate.
            while held is not None and position < min(index, end):
                position += _encode(output, target_stream, held, position - start, fps)
            if index >= end:
                break
            held = frame if index >= start or position == start else held
        if held is not None and position == end - 1:
            position += _encode(output, target_stream, held, position - start, fps)
        if position > start:
            output.mux(target_stream.encode())
    return position - start


def _encode(output: OutputContainer, stream: VideoStream, frame: VideoFrame, number: int, fps: int) -> int:
    # Even sides: H.264 with 4:2:0 colour has no others.
    picture = frame.reformat(width=frame.width // 2 * 2, height=frame.height // 2 * 2, format="yuv420p")
    if number == 0:
        stream.width, stream.height = picture.width, picture.height
    picture.pict_type = 0  # or the source's key frames would be forced on the encoder
    picture.pts, picture.time_base = number, Fraction(1, fps)
    output.mux(stream.encode(picture))
    return 1
