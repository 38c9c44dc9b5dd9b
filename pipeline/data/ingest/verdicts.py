"""Why a video is not used: the codes in the manifest's `reason` column, and what each means to a person."""

from __future__ import annotations

from pipeline.data.video.survey import MISSING_SHARE

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


def judge(
    *,
    declared: int,
    decoded: int,
    width: int,
    height: int,
    fps: float,
    repeated_run: int,
    min_frames: int,
    max_repeated_run: int,
) -> str:
    """The reason against a video that decoded to its end, or "" if there is none."""
    if decoded == 0:
        return "no_frames"
    if min(width, height) < MIN_SIDE:
        return "too_small"
    if decoded < declared * (1 - MISSING_SHARE):
        return "declared_more_than_decoded"
    if repeated_run > max_repeated_run:
        return "repeated_frames"
    if decoded < min_frames:
        return "too_short"
    if not 0 < fps < float("inf"):
        return "no_duration"
    return ""
