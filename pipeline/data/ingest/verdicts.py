"""What is measured of a video, and why it is not used: the codes in the manifest's `reason` column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.data.video.survey import MISSING_SHARE
from pipeline.params import IngestParams

REASONS: dict[str, str] = {
    "missing": "listed in the annotations, but not on disk",
    "unreadable": "the file system refuses to read it (permissions, I/O error)",
    "not_a_file": "a folder, link to nowhere, pipe or device where a file was expected",
    "bad_name": "its name is not valid UTF-8, so no table can hold it",
    "empty": "zero bytes",
    "not_a_video": "no video is recognised in it (text, a web page, a playlist)",
    "truncated": "starts like a video, but its index or its data is cut off",
    "no_video_stream": "holds sound or subtitles only",
    "unsupported_codec": "there is no decoder for its codec",
    "no_frames": "a video stream without one decodable frame",
    "undecodable": "decoding fails within the file",
    "askew": "its display matrix turns it by an angle that is no quarter turn",
    "declared_more_than_decoded": "far fewer frames decode than the header declares",
    "repeated_frames": "one frame is repeated for longer than ingest.max_repeated_run",
    "too_short": "fewer frames than ingest.min_frames",
    "too_small": "narrower or lower than one 16-pixel patch",
    "no_duration": "neither duration nor frame rate can be told",
    "deadline": "not decoded within ingest.deadline_seconds; its process was killed",
    "memory": "needs more than ingest.memory_gib to decode",
    "crashed": "both decoders crashed on it",
    "duplicate": "the same bytes as another video, which is kept",
    "wrong_hash": "its SHA-256 is not the one that its source lists",
}

#: The smallest side that holds a token (METHOD: patches of 16 pixels).
MIN_SIDE = 16


@dataclass(frozen=True)
class Measurement:
    """One file's facts. `reason` is set only where measuring itself failed; frames are 0 then.

    `frames_declared` are the pictures that the header promises: without those that it marks as not to be shown, empty
    chunks and what stands before the first keyframe. `repeated_run` is the length of the longest run of equal
    neighbouring frames: 1 where all differ. `jumps` are the proven entries (`pipeline.data.video.jumps`).
    """

    bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    frames_declared: int = 0
    frames_decoded: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    reader: str = ""
    jumps: str = ""
    repeated_run: int = 0
    reason: str = ""
    message: str = ""


class Rule(NamedTuple):
    """What is accepted: at least so many frames, and no longer run of equal ones. By default anything."""

    min_frames: int = 1
    max_repeated_run: int = 1 << 30


def verdict(video: Measurement, rule: IngestParams | Rule) -> str:
    """The reason against a measured video, or "" if there is none."""
    if video.reason:
        return video.reason
    if video.frames_decoded == 0:
        return "no_frames"
    if min(video.width, video.height) < MIN_SIDE:
        return "too_small"
    if video.frames_decoded < video.frames_declared * (1 - MISSING_SHARE):
        return "declared_more_than_decoded"
    if video.repeated_run > rule.max_repeated_run:
        return "repeated_frames"
    if video.frames_decoded < rule.min_frames:
        return "too_short"
    if not 0 < video.fps < float("inf"):
        return "no_duration"
    return ""
