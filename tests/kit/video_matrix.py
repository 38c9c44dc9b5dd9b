"""Small videos of many kinds, of which no picture is like another.

Container x codec x GOP structure x timing x edit list x turning x dropped frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES, HEIGHT, WIDTH = 60, 96, 128
X264 = {"threads": "1", "preset": "ultrafast", "crf": "20"}
X265 = {"preset": "ultrafast", "crf": "20"}


@dataclass(frozen=True)
class Kind:
    """How a file is made, and how its pictures as decoded are to be shown.

    `reason` is the one that ingest gives against it, "" where it must be usable.
    """

    write: Callable[[Path], None]
    suffix: str
    shown: Callable[[np.ndarray], np.ndarray] = lambda picture: picture
    reason: str = ""


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Picture `number`, uint8 RGB: its bits as blocks over a texture that moves with it."""
    y, x = np.mgrid[0:height, 0:width]
    moved = (x * 2 + y + number * 3) % 128 + (np.sin((y + number * 5) / 9) * 30).astype(int) + 40
    picture = np.stack([moved, moved[::-1], 220 - moved], axis=-1).clip(0, 255).astype(np.uint8)
    block = height // 6
    for bit in range(7):
        left = bit * width // 7
        picture[block : 3 * block, left : left + width // 8] = 235 if number >> bit & 1 else 20
    return picture


def encode(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    muxer: str | None = None,
    muxing: dict[str, str] | None = None,
    sound: bool = False,
    smaller_stream: bool = False,
) -> None:
    """Write numbered pictures, shown at `times` (in 25ths of a second)."""
    height, width = size
    own = X264 if codec == "libx264" else X265 if codec == "libx265" else {}
    quiet = {"x265-params": f"log-level=none:{(options or {}).get('x265-params', '')}".rstrip(":")}
    with av.open(str(path), "w", format=muxer, options=muxing or {}) as container:
        extra: Any = container.add_stream("libx264", rate=25, options=dict(X264)) if smaller_stream else None
        stream: Any = container.add_stream(codec, rate=Fraction(25))
        stream.options = own | (options or {}) | (quiet if codec == "libx265" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = Fraction(1, 25)
        if extra is not None:
            extra.width, extra.height, extra.pix_fmt = 64, 64, "yuv420p"
        voice: Any = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for place, time in enumerate(times if times is not None else range(FRAMES)):
            frame = av.VideoFrame.from_ndarray(numbered(place, height, width), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
            if extra is not None:
                other = av.VideoFrame.from_ndarray(numbered(59 - place, 64, 64), format="rgb24")
                other.pts, other.time_base = time, Fraction(1, 25)
                container.mux(extra.encode(other))
            if voice is not None:
                noise = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
                noise.sample_rate, noise.pts = 16000, place * 640
                container.mux(voice.encode(noise))
        for made in (stream, extra, voice):
            if made is not None:
                container.mux(made.encode())


def made(suffix: str, codec: str = "libx264", options: dict[str, str] | None = None, **how: Any) -> Kind:
    return Kind(lambda path: encode(path, codec, options, **how), suffix)


def changed(kind: Kind, change: Callable[[bytes], bytes], **what: Any) -> Kind:
    """A kind of which the file's bytes are changed afterwards."""

    def write(path: Path) -> None:
        kind.write(path)
        path.write_bytes(change(path.read_bytes()))

    return Kind(write, kind.suffix, **what)


def remuxed(kind: Kind, suffix: str, keep: Callable[[int, Any], bool]) -> Kind:
    """The packets of a kind that are kept, by their places in the file, copied into another container."""

    def write(path: Path) -> None:
        source = path.with_name(f"source-{path.stem}{kind.suffix}")
        kind.write(source)
        with av.open(str(source)) as old, av.open(str(path), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for place, packet in enumerate(old.demux(old.streams.video[0])):
                if packet.size and keep(place, packet):
                    packet.stream = stream
                    new.mux(packet)
        source.unlink()

    return Kind(write, suffix)


def edit(*parts: tuple[int, int]) -> Callable[[bytes], bytes]:
    """Give a file whose index comes last another edit list.

    It has parts of (first frame, frames); a first frame of -1 stands for nothing shown.
    """

    def change(content: bytes) -> bytes:
        timescale = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
        movie = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)[0]
        box = content.index(b"edts") - 4
        size = struct.unpack_from(">I", content, box)[0]
        origin = struct.unpack_from(">i", content, content.index(b"elst") + 16)[0]
        entries = b"".join(
            struct.pack(">Iihh", frames * movie // 25, origin + first * timescale // 25 if first >= 0 else -1, 1, 0)
            for first, frames in parts
        )
        entries = struct.pack(">4sII", b"elst", 0, len(parts)) + entries
        entries = struct.pack(">I", len(entries) + 4) + entries
        entries = struct.pack(">I4s", len(entries) + 8, b"edts") + entries
        grown = bytearray(content[:box] + entries + content[box + size :])
        for around in (b"moov", b"trak"):
            place = content.index(around) - 4
            struct.pack_into(">I", grown, place, struct.unpack_from(">I", content, place)[0] + len(entries) - size)
        return bytes(grown)

    return change


def matrix(*values: int) -> Callable[[bytes], bytes]:
    """Give a track another display matrix: a b c d, in whole numbers."""
    a, b, c, d = (value << 16 for value in values)

    def change(content: bytes) -> bytes:
        place = content.index(b"tkhd") + 4 + 40
        return content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :]

    return change


def cut_head(share: float, unit: int = 1) -> Callable[[bytes], bytes]:
    return lambda content: content[int(len(content) * share) // unit * unit :]


def cut_tail(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def open_gops(codec: str) -> dict[str, str]:
    if codec == "libx265":
        return {"x265-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}
    return {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0:b-adapt=0"}


CLOSED = {"g": "12", "bf": "2", "keyint_min": "12"}
PLAIN = {"g": "12", "bf": "0", "keyint_min": "12"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
VP = {"g": "12", "deadline": "realtime", "cpu-used": "8", "b": "1M"}
MPEG = {"g": "12", "bf": "2", "b": "3M"}
VARIABLE = [n + n // 7 * 3 for n in range(FRAMES)]
LATE = [n + 250 for n in range(FRAMES)]
GAPS = [n + n // 5 for n in range(FRAMES)]

TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "turned by 90": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "turned by 180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "turned by 270": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
}


def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    mp4, stream = made(".mp4", options=CLOSED), made(".ts", options=CLOSED)
    result = {
        f"h264 {container[1:]} {name}": made(container, options=options)
        for container in (".mp4", ".mov", ".mkv", ".ts", ".avi", ".flv")
        for name, options in (("closed", CLOSED), ("open", open_gops("libx264")), ("no b-frames", PLAIN))
        if (container, name) not in ((".avi", "open"), (".flv", "no b-frames"))
    }
    result |= {
        f"hevc {container[1:]} {name}": made(container, "libx265", options)
        for container in (".mp4", ".mkv", ".ts")
        for name, options in (("open", open_gops("libx265")), ("closed", {"x265-params": "open-gop=0:keyint=12"}))
    }
    result |= {
        f"{codec} {container[1:]}": made(container, codec, MPEG)
        for codec, container in (
            *(("mpeg1video", suffix) for suffix in (".mpg", ".mpeg", ".ts", ".avi", ".mkv")),
            *(("mpeg2video", suffix) for suffix in (".mpg", ".vob", ".ts", ".mp4", ".mkv")),
            *(("mpeg4", suffix) for suffix in (".mp4", ".avi", ".mkv", ".ts", ".m4v")),
        )
    }
    result |= {
        "mpeg4 avi no b-frames": made(".avi", "mpeg4", PLAIN | {"b": "3M"}),
        "mpeg2 ts open, one GOP in four": made(".ts", "mpeg2video", MPEG | {"g": "15"}),
        "mpeg2 mpg intra": made(".mpg", "mpeg2video", {"g": "1", "b": "8M"}),
        "vp8 webm": made(".webm", "libvpx", VP),
        "vp8 mkv hidden frames": made(
            ".mkv", "libvpx", {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}
        ),
        "vp9 webm": made(".webm", "libvpx-vp9", VP),
        "vp9 webm hidden frames": made(
            ".webm", "libvpx-vp9", {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M", "cpu-used": "8"}
        ),
        "vp9 mp4": made(".mp4", "libvpx-vp9", VP),
        "av1 mp4": made(".mp4", "libsvtav1", {"preset": "13", "g": "12"}),
        "av1 mkv": made(".mkv", "libsvtav1", {"preset": "13", "g": "30"}),
        "mjpeg avi": made(".avi", "mjpeg", pixels="yuvj420p"),
        "mjpeg mov": made(".mov", "mjpeg", pixels="yuvj420p"),
        "prores mov": made(".mov", "prores_ks", pixels="yuv422p10le"),
        "ffv1 mkv": made(".mkv", "ffv1", {"g": "12"}, pixels="yuv444p"),
        "huffyuv avi": made(".avi", "huffyuv", pixels="yuv422p"),
        "png mov": made(".mov", "png", pixels="rgb24"),
        "gif": made(".gif", "gif", pixels="rgb8"),
        "wmv2 wmv": made(".wmv", "wmv2", {"g": "12", "b": "3M"}),
        "msmpeg4 avi": made(".avi", "msmpeg4", {"g": "12", "b": "3M"}),
        "msmpeg4 asf": made(".asf", "msmpeg4", {"g": "12", "b": "3M"}),
        "flv1 flv": made(".flv", "flv", {"g": "12", "b": "3M"}),
        "h263 3gp": made(".3gp", "h263", {"g": "12", "b": "3M"}),
        "y4m": made(".y4m", "wrapped_avframe"),
        "raw h264": made(".h264", options=CLOSED),
        "h264 mp4 intra refresh": made(".mp4", options=REFRESH),
        "h264 mkv intra refresh": made(".mkv", options=REFRESH),
        "h264 mp4 intra": made(".mp4", options={"g": "1"}),
        "h264 mp4 one GOP": made(".mp4", options={"g": "250", "bf": "3"}),
        "h264 mp4 many references": made(".mp4", options={"x264-params": "keyint=24:ref=6:bframes=5:b-pyramid=normal"}),
        "h264 mp4 interlaced": made(".mp4", options=CLOSED | {"x264-params": "tff=1"}),
        "h264 mp4 4:4:4": made(".mp4", options=CLOSED, pixels="yuv444p"),
        "h264 mp4 10 bits": made(".mp4", options=CLOSED, pixels="yuv420p10le"),
        "hevc mkv 10 bits": made(".mkv", "libx265", {"x265-params": "keyint=12"}, pixels="yuv420p10le"),
        "h264 mp4 odd size": made(".mp4", options=CLOSED, pixels="yuv444p", size=(95, 127)),
        "h264 mp4 fragments": made(".mp4", options=CLOSED, muxing={"movflags": "frag_keyframe+empty_moov"}),
        "h264 mp4 index first": made(".mp4", options=CLOSED, muxing={"movflags": "faststart"}),
        "h264 mkv without index": made(".mkv", options=CLOSED, muxer="matroska", muxing={"live": "1"}),
        "h264 mp4 variable rate": made(".mp4", options=CLOSED, times=VARIABLE),
        "h264 mkv variable rate": made(".mkv", options=CLOSED, times=VARIABLE),
        "vp9 webm variable rate": made(".webm", "libvpx-vp9", VP, times=VARIABLE),
        "h264 mp4 late start": made(".mp4", options=CLOSED, times=LATE),
        "h264 ts late start": made(".ts", options=CLOSED, times=LATE),
        "mpeg2 ts late start": made(".ts", "mpeg2video", MPEG, times=LATE),
        "mpeg4 avi empty chunks": made(".avi", "mpeg4", PLAIN | {"b": "3M"}, times=GAPS),
        "mjpeg avi empty chunks": made(".avi", "mjpeg", pixels="yuvj420p", times=GAPS),
        "h264 avi empty chunks": made(".avi", options=PLAIN, times=GAPS),
        "h264 mp4 edit list within a GOP": changed(mp4, edit((17, 30))),
        "h264 mp4 edit list to the end": changed(mp4, edit((5, 60))),
        "h264 mp4 edit list with a delay": changed(mp4, edit((-1, 20), (0, 60))),
        "h264 mp4 edit list of two parts": changed(mp4, edit((3, 20), (37, 20))),
        "h264 mp4 edit list that repeats": changed(mp4, edit((13, 30), (13, 30))),
        "h264 mov edit list at a keyframe": changed(made(".mov", options=CLOSED), edit((24, 24))),
        "hevc mp4 edit list": changed(made(".mp4", "libx265", open_gops("libx265")), edit((17, 30))),
        "mpeg4 mp4 edit list": changed(made(".mp4", "mpeg4", MPEG), edit((7, 40))),
        "h264 mp4 cut by copy": remuxed(mp4, ".mp4", lambda place, _: place >= 18),
        "h264 mkv cut by copy": remuxed(mp4, ".mkv", lambda place, _: place >= 18),
        "mpeg4 avi cut by copy": remuxed(
            made(".avi", "mpeg4", PLAIN | {"b": "3M"}), ".avi", lambda place, _: place >= 18
        ),
        "h264 mkv without every tenth packet": remuxed(
            made(".mkv", options={"g": "1"}), ".mkv", lambda place, _: place % 10 != 3
        ),
        "h264 mkv with lost packets": remuxed(made(".mkv", options=CLOSED), ".mkv", lambda place, _: place % 12 != 7),
        "h264 ts begins within a GOP": changed(stream, cut_head(0.3, 188)),
        "mpeg2 ts begins within a GOP": changed(made(".ts", "mpeg2video", MPEG), cut_head(0.3, 188)),
        "mpeg2 mpg begins within a GOP": changed(made(".mpg", "mpeg2video", MPEG), cut_head(0.3, 2048)),
        "mpeg2 ts cut off": changed(made(".ts", "mpeg2video", MPEG), cut_tail(0.7)),
        "h264 mkv cut off": changed(made(".mkv", options=CLOSED), cut_tail(0.7)),
        "h264 mp4 with sound": made(".mp4", options=CLOSED, sound=True),
        "h264 ts with sound": made(".ts", options=CLOSED, sound=True),
        "h264 mp4 two streams": made(".mp4", options=CLOSED, smaller_stream=True),
        "h264 mkv two streams": made(".mkv", options=CLOSED, smaller_stream=True),
        "turned by 45": changed(mp4, matrix(1, 1, -1, 1), reason="askew"),
    }
    result |= {
        f"h264 mp4 {name}": changed(mp4, matrix(*values), shown=shown) for name, (values, shown) in TURNS.items()
    }
    result["hevc mov transposed"] = changed(
        made(".mov", "libx265", open_gops("libx265")), matrix(*TURNS["transposed"][0]), shown=TURNS["transposed"][1]
    )
    return result


def reference(path: Path, shown: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Every picture of one plain sequential pass with PyAV over the best stream, as it is to be shown."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        return [np.ascontiguousarray(shown(frame)) for frame in _whole(container, stream)]


def _whole(container: Any, stream: Any) -> Iterable[np.ndarray]:
    started = False
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if started:
                raise
            continue  # before the first keyframe
        for frame in frames:
            yield frame.to_ndarray(format="rgb24")
