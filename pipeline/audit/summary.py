"""What an audit says of a folder, from the records of all its videos. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audit.record import SHARES, STILL, Audited, TokenChange
from pipeline.audit.similar import similar_groups
from pipeline.data.ingest.verdicts import verdict
from pipeline.params import IngestParams
from pipeline.system.progress import Line
from pipeline.system.text import counted

#: What is refused for training at first, but can be looked at all the same.
SHORT = "too_short"
#: Of the change, at which EVEREST's savings are told in a sentence.
TOLD = 0.8


@dataclass(frozen=True)
class VideoRow:
    """One video.

    Attributes:
        still: share of its tokens that change by less than STILL grey levels.
        median: [grey levels] change of its median token.
        tokens_needed: share of its tokens that hold 80 % of the change.
    """

    path: str
    seconds: float
    fps: float
    width: int
    height: int
    frame_step: int
    still: float
    median: float
    tokens_needed: float


@dataclass(frozen=True)
class ShareRow:
    """Where this share of the change is kept: shares of tokens and of slots (pairs of frames) that are dropped."""

    change_kept: float
    tokens_dropped: float
    frames_dropped: float
    tokens_dropped_low: float
    tokens_dropped_high: float


@dataclass(frozen=True)
class Refused:
    """A file that cannot be used, and why."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True)
class Findings:
    """What the videos are like.

    Attributes:
        videos: that were decoded and have at least two slots; those in which the fewest tokens change come first.
        refused: the others.
        hours: of video.
        still: share of tokens that change by less than STILL grey levels from one slot to the next.
        median: [grey levels] change of the median video's median token.
        histogram: share of tokens by their change, on BINS.
        change_kept: share of the change that is kept, for each ratio of KEEPS: percentiles 10, 50, 90 of videos.
        shares: what is dropped at each of SHARES of the change; low and high are percentiles 10 and 90 of videos.
        copies: groups of files with the same bytes.
        similar: groups of videos that show nearly the same pictures, each copy once.
    """

    videos: list[VideoRow]
    refused: list[Refused]
    hours: float
    still: float
    median: float
    histogram: list[float]
    change_kept: list[tuple[float, float, float]]
    shares: list[ShareRow]
    copies: list[list[str]]
    similar: list[list[str]]

    def kept_at(self, keep: float) -> float:
        """Share of the change that the median video keeps at a keep ratio of KEEPS."""
        return self.change_kept[round(keep * 20) - 1][1]

    def needed_at(self, share: float) -> float:
        """Keep ratio at which the mean video keeps a share of its change, of SHARES."""
        return 1 - next(row.tokens_dropped for row in self.shares if row.change_kept == share)

    def ends(self, count: int) -> tuple[list[VideoRow], list[VideoRow]]:
        """So many of the most redundant and of the least, each video once, and of a group only one."""
        group = {path: number for number, paths in enumerate([*self.copies, *self.similar]) for path in paths}
        firsts: dict[object, VideoRow] = {}
        for video in self.videos:
            firsts.setdefault(group.get(video.path, video.path), video)
        ranked = list(firsts.values())
        return ranked[: min(count, (len(ranked) + 1) // 2)], ranked[::-1][: min(count, len(ranked) // 2)]


def findings(records: Mapping[str, Audited], rules: IngestParams) -> Findings | None:
    """What the measured videos are like; None where not one could be looked at."""
    looked: dict[str, tuple[Audited, TokenChange]] = {}
    refused = []
    for path, record in sorted(records.items()):
        reason = verdict(record.measurement, rules)
        if record.change is not None and reason in ("", SHORT):
            looked[path] = (record, record.change)
        else:
            message = record.measurement.message
            refused.append(Refused(path, reason or SHORT, message))
    if not looked:
        return None
    changes = [change for _, change in looked.values()]
    rows = [_row(path, record, change) for path, (record, change) in looked.items()]
    tokens = np.array([change.tokens_needed for change in changes])
    slots = np.array([change.slots_needed for change in changes])
    counts = np.sum([np.array(change.histogram) / sum(change.histogram) for change in changes], axis=0)
    low, middle, high = np.percentile([change.change_kept for change in changes], [10, 50, 90], axis=0).tolist()
    copies = _copies({path: record for path, (record, _) in looked.items()})
    return Findings(
        videos=sorted(rows, key=lambda row: (-row.still, row.median, row.path)),
        refused=refused,
        hours=sum(row.seconds for row in rows) / 3600,
        still=float(np.mean([change.still for change in changes])),
        median=float(np.median([change.median for change in changes])),
        histogram=(counts / counts.sum()).round(6).tolist(),
        change_kept=list(zip(low, middle, high, strict=True)),
        shares=[
            ShareRow(
                share,
                float(1 - tokens[:, place].mean()),
                float(1 - slots[:, place].mean()),
                *(1 - np.percentile(tokens[:, place], [90, 10])).tolist(),
            )
            for place, share in enumerate(SHARES)
        ],
        copies=copies,
        similar=_similar({path: change for path, (_, change) in looked.items()}, copies),
    )


def sentences(findings: Findings, total: int, saved: float) -> list[str]:
    """What a reader should know first.

    Args:
        total: videos of the folder.
        saved: share of tube masking's multiply-adds that EVEREST saves at the paper's ratios.
    """
    row = next(row for row in findings.shares if row.change_kept == TOLD)
    low, high = 1 - row.tokens_dropped_high, 1 - row.tokens_dropped_low
    lines = [
        f"{len(findings.videos)} of {counted(total, 'video')} {'was' if total == 1 else 'were'} looked at: "
        f"{_length(findings.hours)} in all, median "
        f"{np.median([video.seconds for video in findings.videos]):.1f} s a video.",
        f"{findings.still:.0%} of their tokens change by less than {STILL:g} of 255 grey levels from one time slot to "
        f"the next. {TOLD:.0%} of all change lies in {1 - row.tokens_dropped:.0%} of the tokens (for the middle 80 % "
        f"of videos in {low:.0%} to {high:.0%}), and in {1 - row.frames_dropped:.0%} of the slots.",
        f"EVEREST with the paper's 30 % of tokens keeps {findings.kept_at(0.3):.0%} of the change of the median video "
        f"and takes {saved:.0%} fewer multiply-adds than tube masking.",
        _advice(findings),
    ]
    if findings.refused:
        reasons = Counter(one.reason for one in findings.refused)
        counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons.most_common())
        lines.append(f"{len(findings.refused)} of the files cannot be used: {counts}.")
    if findings.copies:
        lines.append(f"{sum(map(len, findings.copies))} files hold the same bytes as another of them.")
    if findings.similar:
        lines.append(
            f"{sum(map(len, findings.similar))} videos fall into {counted(len(findings.similar), 'group')} that show "
            "nearly the same pictures: keep each group on one side of a split."
        )
    return lines


def _advice(findings: Findings) -> str:
    """Whether the paper's keep ratio fits; the bounds are round numbers between the real clips that we looked at."""
    kept = findings.kept_at(0.3)
    if findings.still > 0.9:
        return "Hardly anything moves here: a larger frame step, or pauses cut out, would give training more to learn."
    if kept >= 0.6:
        return "These videos are redundant in the way that EVEREST uses: the paper's keep ratio of 0.3 fits them."
    if kept >= 0.45:
        return (
            f"Change is spread over more of the picture than the paper's keep ratio of 0.3 holds; "
            f"{findings.needed_at(TOLD):.2f} would keep {TOLD:.0%} of it."
        )
    return (
        "Nearly everything changes from slot to slot (a moving camera, cuts, or noise): what changes most says less "
        "about what matters here, so compare strategies (`everest compare`) before you rely on it."
    )


def _length(hours: float) -> str:
    return (
        f"{hours:.1f} hours"
        if hours >= 2
        else f"{hours * 60:.1f} minutes"
        if hours * 60 >= 2
        else f"{hours * 3600:.0f} s"
    )


def _row(path: str, record: Audited, change: TokenChange) -> VideoRow:
    measured = record.measurement
    return VideoRow(
        path=path,
        seconds=measured.frames_decoded / measured.fps if measured.fps else 0.0,
        fps=measured.fps,
        width=measured.width,
        height=measured.height,
        frame_step=change.frame_step,
        still=change.still,
        median=change.median,
        tokens_needed=change.tokens_needed[SHARES.index(TOLD)],
    )


def _copies(records: Mapping[str, Audited]) -> list[list[str]]:
    by_hash: dict[str, list[str]] = {}
    for path, record in records.items():
        by_hash.setdefault(record.measurement.sha256, []).append(path)
    return sorted((paths for paths in by_hash.values() if len(paths) > 1), key=lambda paths: (-len(paths), paths))


def _similar(changes: Mapping[str, TokenChange], copies: Sequence[Sequence[str]]) -> list[list[str]]:
    again = {path for paths in copies for path in paths[1:]}
    paths = [path for path in changes if path not in again]
    line = Line()
    line.show(f"compares {counted(len(paths), 'video')}", now=True)
    groups = similar_groups([[int(one, 16) for one in changes[path].signatures] for path in paths])
    line.close()
    return [[paths[video] for video in group] for group in groups]
