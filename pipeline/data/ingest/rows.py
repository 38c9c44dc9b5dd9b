"""From a list of videos and their measurements to the manifest's rows; every refusal has its reason."""

from __future__ import annotations

from typing import Any

from pipeline.data.annotations.listing import ListedVideo, Listing
from pipeline.data.ingest.ingest import verdict
from pipeline.data.ingest.measure import Measurement
from pipeline.params import IngestParams
from pipeline.system.text import printable

#: Of equal files one is kept: a scored one before one to train on, so that no test video is trained on.
_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "unused": 3}


def manifest_rows(
    listing: Listing, measured: dict[str, Measurement], split: int, params: IngestParams
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows for :func:`pipeline.data.manifest.from_rows`, and a message for each quarantined video_id.

    Args:
        split: which of the publisher's splits is in use, from 1.
    """
    rows, messages = [], {}
    for video in listing.videos:
        found = measured[video.path]
        reason = verdict(found, params)
        if not reason and video.sha256 and video.sha256.lower() != found.sha256:
            reason = "wrong_hash"
        row = _row(video, found, split, reason)
        if reason:
            messages[row["video_id"]] = found.message
        rows.append(row)
    messages |= _refuse_duplicates(rows)
    return rows, messages


def quarantine_csv(rows: list[dict[str, Any]], messages: dict[str, str]) -> str:
    """quarantine.csv: one line for each video that is not used, sorted by path."""
    import io

    from pipeline.system.csv_files import Writer

    text = io.StringIO()
    writer = Writer(text, lineterminator="\n")
    writer.row(["path", "video_id", "split", "reason", "message"])
    for row in sorted(rows, key=lambda row: (row["path"], row["video_id"])):
        if row["reason"]:
            message = " ".join(messages.get(row["video_id"], "").split())
            writer.row([row["path"], row["video_id"], row["split"], row["reason"], message])
    return text.getvalue()


def _row(video: ListedVideo, found: Measurement, split: int, reason: str) -> dict[str, Any]:
    chosen = video.splits[min(split, len(video.splits)) - 1]
    return {
        "video_id": video.video_id,
        "path": video.path,
        "split": chosen,
        "splits": ",".join(video.splits),
        "label": video.label,
        "label_name": video.label_name,
        "source": video.source,
        "sha256": found.sha256,
        "bytes": found.bytes,
        "frames_declared": found.frames_declared,
        "frames_decoded": found.frames_decoded,
        "fps": found.fps,
        "width": found.width,
        "height": found.height,
        "rotation": found.rotation,
        "reader": found.reader,
        "jumps": found.jumps,
        "repeated_run": found.repeated_run,
        "status": "quarantined" if reason else "ok",
        "reason": reason,
    }


def _refuse_duplicates(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Quarantines all but one of files with equal bytes; returns the messages."""
    messages: dict[str, str] = {}
    kept: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (_KEEP_ORDER[row["split"]], row["path"], row["video_id"])):
        if row["reason"]:
            continue
        first = kept.setdefault(row["sha256"], row)
        if first is not row:
            row["status"], row["reason"] = "quarantined", "duplicate"
            messages[row["video_id"]] = f"same bytes as {printable(first['path'])} in split {first['split']}"
    return messages
