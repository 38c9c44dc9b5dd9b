"""Small real videos for the tests, good ones and every kind of bad one."""

from __future__ import annotations

import io
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.data.video import write_video
from pipeline.params import IngestParams

#: What ingest asks of them.
RULES = IngestParams(
    deadline_seconds=60.0, memory_gib=4.0, failure_budget=0.02, min_frames=16, max_repeated_run=64, workers=2
)


def moving(frames: int = 24, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [T,H,W,3]: a smooth texture that moves, different for each seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 8, width // 8 + 8, 3), dtype=np.uint8)
    texture = blocks.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(texture, 2 * t, axis=1)[:height, :width] for t in range(frames)])


def write(path: Path, frames: int = 24, seed: int = 0, **options: Any) -> Path:
    """A good clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, moving(frames, seed=seed), **options)
    return path


def truncated(path: Path, keep: float, fast_start: bool) -> Path:
    """An mp4 cut off: with its index in front (fewer frames decode than declared) or at the end (lost)."""
    whole = path.with_name(f"whole_{path.name}")
    container = av.open(str(whole), "w", options={"movflags": "+faststart"} if fast_start else {})
    with container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": "6", "threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in moving(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = whole.read_bytes()
    whole.unlink()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def sound_only(path: Path) -> Path:
    """An mp4 with an audio stream and nothing else."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def without_duration(path: Path) -> Path:
    """A live Matroska stream: no duration, no index, not seekable."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska", options={"live": "1"}) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in moving(24, seed=77):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(sink.getvalue())
    return path


def raw_codec(path: Path, codec: str, size: int, frames: int = 24, seed: int = 5) -> Path:
    """Another codec or an odd size."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25))
        stream.width = stream.height = size
        stream.pix_fmt = {"mpeg4": "yuv420p", "png": "rgb24", "ffv1": "yuv444p", "mjpeg": "yuvj420p"}[codec]
        for picture in moving(frames, size, size, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def unknown_codec(path: Path) -> Path:
    """A good mp4 whose codec's name nobody knows."""
    write(path, seed=9)
    content = path.read_bytes()
    assert content.count(b"avc1") >= 1
    head, _, tail = content.rpartition(b"avc1")
    path.write_bytes(head + b"zzz9" + tail)
    return path


def broken_inside(path: Path) -> Path:
    """An mp4 whose data are overwritten from the first frame on."""
    write(path, frames=48, seed=8)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = os.urandom(end - start)
    path.write_bytes(bytes(content))
    return path


def static(path: Path, frames: int) -> Path:
    """One frame, repeated."""
    write_video(path, np.repeat(moving(1, seed=3), frames, axis=0), crf=0)
    return path


def without_times(path: Path) -> Path:
    """A live WebM whose frames are all shown at the same moment: neither duration nor frame rate can be told."""
    sink = io.BytesIO()
    # bitexact: random identifiers would look like a block now and then.
    with av.open(sink, "w", format="webm", options={"live": "1", "fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libvpx", rate=25, options={"threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in moving(24, seed=78):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(sink.getvalue())
    rate = content.index(b"\x23\xe3\x83\x84")  # the element DefaultDuration of 4 bytes becomes one that is ignored
    content[rate : rate + 8] = b"\xec\x86" + bytes(6)
    blocks = 0
    # A SimpleBlock: its tag, its size in 1 to 3 bytes, track 1, and the time as 16 bits.
    for match in re.finditer(rb"\xa3(?:[\x80-\xff]|[\x40-\x7f].|[\x20-\x3f]..)\x81", bytes(content), re.DOTALL):
        content[match.end() : match.end() + 2] = bytes(2)
        blocks += 1
    assert blocks == 24
    path.write_bytes(bytes(content))
    return path


def without_frames(path: Path) -> Path:
    """An AVI with a video stream in its header and not one frame."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    return path


def unreadable(path: Path) -> Path:
    """A file that every user may open and the kernel answers with an I/O error, even to root: an unmapped page."""
    path.symlink_to("/proc/self/mem")
    return path


def huge(path: Path) -> Path:
    """An mp4 below 1 MB with four frames of 8176 x 8176: 0.2 GB each in RGB, many seconds to decode."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 8176
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(8176, 8176, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for time in range(4):
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def corpus(folder: Path) -> dict[str, str]:
    """Every kind of bad file, some good ones, and the reason expected against each ("" for good)."""
    folder.mkdir(parents=True, exist_ok=True)
    good = write(folder / "good.mp4", seed=1)
    write(folder / "it's a [good] one; #2 & (more) ~+@!.mp4", seed=2)
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<!doctype html><html><body>404 Not Found</body></html>" * 20)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(30_000))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n")
    truncated(folder / "cut_tail.mp4", 0.5, fast_start=False)
    truncated(folder / "cut_data.mp4", 0.5, fast_start=True)
    sound_only(folder / "sound.mp4")
    unknown_codec(folder / "codec.mp4")
    broken_inside(folder / "broken.mp4")
    static(folder / "static.mp4", 80)
    write(folder / "short.mp4", frames=5, seed=4)
    raw_codec(folder / "dot.avi", "png", 1)
    without_duration(folder / "live.mkv")
    without_times(folder / "timeless.webm")
    without_frames(folder / "no_frames.avi")
    unreadable(folder / "unreadable.mp4")
    (folder / "headers.mkv").write_bytes((folder / "live.mkv").read_bytes().partition(b"\x1fC\xb6u")[0])
    shutil.copy(good, folder / "z_copy.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "nowhere.mp4").symlink_to(folder / "gone")
    return {
        "good.mp4": "",
        "it's a [good] one; #2 & (more) ~+@!.mp4": "",
        "live.mkv": "",
        "timeless.webm": "no_duration",
        "no_frames.avi": "no_frames",
        "unreadable.mp4": "unreadable",
        "headers.mkv": "truncated",
        "empty.mp4": "empty",
        "page.mp4": "not_a_video",
        "noise.mp4": "not_a_video",
        "playlist.mp4": "not_a_video",
        "cut_tail.mp4": "truncated",
        "cut_data.mp4": "declared_more_than_decoded",
        "sound.mp4": "no_video_stream",
        "codec.mp4": "unsupported_codec",
        "broken.mp4": "undecodable",
        "static.mp4": "repeated_frames",
        "short.mp4": "too_short",
        "dot.avi": "too_small",
        "z_copy.mp4": "duplicate",
        "folder.mp4": "not_a_file",
        "nowhere.mp4": "not_a_file",
        "absent.mp4": "missing",
    }
