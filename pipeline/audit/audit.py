"""`everest audit FOLDER`: what its videos hold, what EVEREST would drop of them, and what a training would take."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.audit.costs import KEEP, Disk, Training
from pipeline.audit.measuring import audited
from pipeline.audit.on_map import expectation, measured
from pipeline.audit.summary import TOLD, Findings, findings, sentences
from pipeline.data.ingest.isolated import ingest_params
from pipeline.data.video.listing import VIDEO_SUFFIXES, video_files
from pipeline.errors import InputError
from pipeline.params.groups import Size
from pipeline.system.text import counted

#: Videos that the page shows of each end.
SHOWN = 3
PAGE = Path("outputs/audit/audit.html")


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        folder: that was audited.
        videos_total: files with a video's suffix; `other_files` have none.
        sentences: what a reader should know first.
        findings: what the videos are like.
        savings: (multiply-adds of a clip [G], share saved against tube masking) for each of `findings.shares`.
        trainings: predictions for the device.
        disk: expected sizes [GiB].
        page: the HTML file.
        seconds: that this call took.
    """

    folder: str
    videos_total: int
    other_files: int
    sentences: list[str]
    findings: Findings
    savings: list[tuple[float, float]]
    trainings: list[Training]
    disk: Disk
    page: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what `--json` prints."""
        return asdict(self)


def audit(folder: Path | str, *, out: Path | str = PAGE, gpu: str = "h100", gpus: int = 1, size: str = "base") -> Audit:
    """Look at the videos of a folder; what an earlier call has measured is taken from its notes.

    Args:
        folder: searched for videos, with its subfolders.
        out: the HTML page.
        gpu, gpus: device of the predictions, as `everest plan` takes them.
        size: of the model that they are for.

    Raises:
        InputError: no video, none that can be decoded, an unknown device or size, a page that cannot be written.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    from pipeline.planning.plan import check_device

    began = time.monotonic()
    root, target = Path(folder), Path(out)
    paths, others = video_files(root)
    if not paths:
        raise InputError(
            f"{folder} holds no video: none of its {others} files ends in one of {' '.join(sorted(VIDEO_SUFFIXES))}. "
            "Cure: name the folder that holds the videos, or give them such a suffix."
        )
    check_device(gpu, gpus)
    _check(target, size)
    rules = ingest_params()
    records = audited(root, paths, rules)
    summary = findings(records, rules)
    if summary is None:
        reasons = sorted({record.measurement.reason or "too_short" for record in records.values()})
        raise InputError(
            f"none of the {counted(len(paths), 'video')} in {folder} can be looked at ({', '.join(reasons)}). "
            "Cure: `everest ingest` says why, file by file."
        )
    return _written(root, summary, records, paths, others, target, (gpu, gpus, size), began)


def _written(
    root: Path, findings: Findings, records: dict[str, Any], paths: Sequence[str], others: int, target: Path,
    planned: tuple[str, int, str], began: float,
) -> Audit:  # fmt: skip
    """The result with its page; everything that takes torch is loaded here, after the measuring."""
    from pipeline.audit.costs import disk, pretrain_gmacs, trainings
    from pipeline.audit.page import page
    from pipeline.audit.pictures import strips
    from pipeline.planning.plan import Planner
    from pipeline.system.files import write_text
    from pipeline.system.progress import Line

    gpu, gpus, size = planned
    line = Line("audit")
    line.show("costs and pictures", now=True)
    tube = pretrain_gmacs(size, "tube", 1.0)
    costs = [pretrain_gmacs(size, "everest", max(0.02, 1 - row.tokens_dropped)) for row in findings.shares]
    savings = [(cost, 1 - cost / tube) for cost in costs]
    planner = Planner(gpu, gpus)
    runs = trainings(size, planner, len(findings.videos), [KEEP])
    lines = sentences(findings, len(paths), 1 - pretrain_gmacs(size, "everest", KEEP) / tube)
    if (expected := expectation(findings.needed_at(TOLD), measured())) is not None:
        lines.append(expected)
    most, least = findings.ends(SHOWN)
    drawn = strips(root, [*most, *least], records, ingest_params(), KEEP)
    pictures = [
        (end, video, drawn[video.path])
        for end, videos in (("Most redundant", most), ("Least redundant", least))
        for video in videos
        if video.path in drawn
    ]
    space = disk([records[video.path] for video in findings.videos])
    device = f"{gpus} x {planner.device.name}, size {size}"
    title = f"Audit of {root.resolve().name}"
    write_text(target, page(title, lines, findings, savings, runs, space, device, pictures))
    line.close()
    return Audit(
        folder=str(root),
        videos_total=len(paths),
        other_files=others,
        sentences=lines,
        findings=findings,
        savings=savings,
        trainings=runs,
        disk=space,
        page=str(target),
        seconds=round(time.monotonic() - began, 2),
    )


def _check(target: Path, size: str) -> None:
    """Refuse before the work what could not be planned or written after it."""
    known = get_args(Size)
    if size not in known:
        raise InputError(f"size = {size!r}, expected one of {', '.join(known)}. Cure: choose one of them.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.parent}: {error.strerror}. Cure: name a page elsewhere with --out.") from None
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise InputError(f"{target} cannot be written. Cure: name a page elsewhere with --out.")
