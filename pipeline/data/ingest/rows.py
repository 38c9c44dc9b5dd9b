"""From a list of videos and their measurements to the manifest's rows; every refusal has its reason."""

from __future__ import annotations

import io

from pipeline.data.annotations.base import ListedVideo, Listing
from pipeline.data.ingest.verdicts import Measurement, verdict
from pipeline.data.manifest import Row
from pipeline.params import IngestParams
from pipeline.system.csv_files import Writer
from pipeline.system.text import printable

#: Of equal files one is kept: a scored one before one to train on, so that no test video is trained on.
_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "unused": 3}


def manifest_rows(
    listing: Listing, measured: dict[str, Measurement], split: int, params: IngestParams
) -> tuple[list[Row], dict[str, str]]:
    """The manifest's rows, and a message for each quarantined video_id.

    Args:
        split: which of the publisher's splits is in use, from 1.
    """
    rows: list[Row] = []
    messages: dict[str, str] = {}
    for video in listing.videos:
        measurement = measured[video.path]
        reason = verdict(measurement, params)
        if not reason and video.sha256 and video.sha256.lower() != measurement.sha256:
            reason = "wrong_hash"
        if reason:
            messages[video.video_id] = measurement.message
        rows.append(_row(video, measurement, split, reason, listing.multi_label))
    messages |= _refuse_duplicates(rows)
    return rows, messages


def quarantine_csv(rows: list[Row], messages: dict[str, str]) -> str:
    """quarantine.csv: one line for each video that is not used, sorted by path."""
    text = io.StringIO()
    writer = Writer(text, lineterminator="\n")
    writer.row(["path", "video_id", "split", "reason", "message"])
    for row in sorted(rows, key=lambda row: (row["path"], row["video_id"])):
        if row["reason"]:
            message = " ".join(messages.get(row["video_id"], "").split())
            writer.row([row["path"], row["video_id"], row["split"], row["reason"], message])
    return text.getvalue()


def _row(video: ListedVideo, measurement: Measurement, split: int, reason: str, several: bool) -> Row:
    chosen = video.splits[min(split, len(video.splits)) - 1]
    row: Row = {
        "video_id": video.video_id,
        "path": video.path,
        "split": chosen,
        "splits": ",".join(video.splits),
        "label": video.label,
        "label_name": video.label_name,
        "source": video.source,
        "sha256": measurement.sha256,
        "bytes": measurement.bytes,
        "frames_declared": measurement.frames_declared,
        "frames_decoded": measurement.frames_decoded,
        "fps": measurement.fps,
        "width": measurement.width,
        "height": measurement.height,
        "rotation": measurement.rotation,
        "reader": measurement.reader,
        "jumps": measurement.jumps,
        "repeated_run": measurement.repeated_run,
        "status": "quarantined" if reason else "ok",
        "reason": reason,
    }
    if several:
        row["labels"] = list(video.labels)
    return row


def _refuse_duplicates(rows: list[Row]) -> dict[str, str]:
    """Quarantines all but one of files with equal bytes; returns the messages."""
    messages = {}
    kept: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (_KEEP_ORDER[row["split"]], row["path"], row["video_id"])):
        if row["reason"]:
            continue
        first = kept.setdefault(row["sha256"], row)
        if first is not row:
            row["status"], row["reason"] = "quarantined", "duplicate"
            messages[row["video_id"]] = f"same bytes as {printable(first['path'])} in split {first['split']}"
    return messages
