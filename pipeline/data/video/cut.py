"""Cuts windows of frames out of long videos, with every cut's frames counted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.data.video import X264, VideoError
from pipeline.system.files import atomic_path


def cut_window(source: Path, target: Path, start_frame: int, end_frame: int, fps: int, crf: int = 18) -> int:
    """Write frames start_frame <= i < end_frame of a video; frame i is the one shown at i / fps seconds.

    Frames are chosen by their own time stamps, so neither a late key frame nor a variable rate shifts the
    window. The written file is decoded again and its frames counted before it gets its name.

    Returns:
        Number of frames written: always end_frame - start_frame.

    Raises:
        VideoError: the video does not open, or has no frame for some of the window.
    """
    import av

    wanted = end_frame - start_frame
    with atomic_path(target) as temporary:
        try:
            with av.open(str(source.absolute()), options={"protocol_whitelist": "file"}) as video:
                written = _copy(video, temporary, start_frame, end_frame, fps, crf)
            if written != wanted:
                raise VideoError(
                    "declared_more_than_decoded",
                    f"{source.name}: frames {start_frame} to {end_frame} were asked for, {written} of {wanted} exist",
                )
            with av.open(str(temporary)) as check:
                counted = sum(1 for _ in check.decode(video=0))
        except (av.FFmpegError, OSError) as error:
            raise VideoError("undecodable", f"{source.name} cannot be cut: {str(error).splitlines()[0]}") from None
        if counted != wanted:
            raise VideoError("declared_more_than_decoded", f"{target.name}: wrote {wanted} frames, {counted} decode")
    return wanted


def _copy(video: Any, target: Path, start: int, end: int, fps: int, crf: int) -> int:
    import av

    stream = video.streams.best("video")
    if stream is None:
        raise VideoError("no_video_stream", "the file holds no video stream")
    origin = stream.start_time or 0
    # A second early: seeking lands on a key frame at or before the wanted time.
    before = max(0, Fraction(start, fps) - 1)
    video.seek(origin + int(before / stream.time_base), stream=stream, backward=True)
    position = start
    with av.open(str(target), "w", format="mp4", options={"fflags": "+bitexact"}) as output:
        encoder: Any = output.add_stream("libx264", rate=fps)
        encoder.options = X264 | {"threads": "1", "flags": "+bitexact", "crf": str(crf), "preset": "veryfast"}
        encoder.pix_fmt = "yuv420p"
        held: Any = None
        for frame in video.decode(stream):
            index = round((frame.pts - origin) * stream.time_base * fps)
            # The frame before stays on screen until this one: it fills the gaps of a variable rate.
            while held is not None and position < min(index, end):
                position += _encode(output, encoder, held, position - start, fps)
            if index >= end:
                break
            held = frame if index >= start or position == start else held
        if held is not None and position == end - 1:
            position += _encode(output, encoder, held, position - start, fps)
        if position > start:
            output.mux(encoder.encode())
    return position - start


def _encode(output: Any, encoder: Any, frame: Any, number: int, fps: int) -> int:
    # Even sides: H.264 with 4:2:0 colour has no others.
    picture = frame.reformat(width=frame.width // 2 * 2, height=frame.height // 2 * 2, format="yuv420p")
    if number == 0:
        encoder.width, encoder.height = picture.width, picture.height
    picture.pict_type = 0  # or the source's key frames would be forced on the encoder
    picture.pts, picture.time_base = number, Fraction(1, fps)
    output.mux(encoder.encode(picture))
    return 1
