"""Stage `download`: from a benchmark's source to a manifest of videos that were each decoded once.

Videos go to the raw folder and stay out of DVC; the manifest with their SHA-256, the list of those that are
not used, and the class names are what DVC versions.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import TypedDict

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.annotations.base import classes_of
from pipeline.data.annotations.classes import count_fault
from pipeline.data.ingest.ingest import ingest
from pipeline.data.ingest.memory import NOTES
from pipeline.data.ingest.rows import manifest_rows, quarantine_csv
from pipeline.data.sources import Listing, source_of
from pipeline.errors import EverestError, InputError
from pipeline.params import Params, flatten
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.system.disk import DiskFullError
from pipeline.system.files import free_bytes, write_text
from pipeline.system.locks import locked
from pipeline.system.text import printable
from pipeline.tracking import names, stage_run
from pipeline.tracking.headline import headline

log = logging.getLogger(__name__)

#: Quarantined videos that an error message names; the file that it points to has all.
NAMED = 15


class Counts(TypedDict):
    """What a benchmark's videos are: `reasons` counts those not used, `splits` the videos of each split."""

    videos_ok: int
    videos_total: int
    frames_decoded: int
    bytes: int
    classes: int
    problems: int
    reasons: dict[str, int]
    splits: dict[str, dict[str, int]]
    seconds: float


class MissingFile(TypedDict):
    """A file to fetch; its size is None where nobody says it."""

    name: str
    bytes: int | None
    url: str


class FetchPlan(TypedDict):
    """What a download would fetch, and where to."""

    folder: str
    files_total: int
    files_missing: int
    bytes_missing: int
    sizes_unknown: int
    bytes_free: int
    files: list[MissingFile]


def run(params: Params, benchmark: str | None) -> Counts:
    """Fetch, check and list the videos of one benchmark.

    MLflow gets all of its counts, DVC's metrics the headline.

    Raises:
        InputError: parameters do not fit the data, or files must be placed by hand.
        EverestError: more videos are bad than ingest.failure_budget allows; nothing was written but the list.
    """
    if benchmark is None:
        raise InputError("the download stage works on one benchmark. Cure: `everest download BENCHMARK`.")
    data = params.benchmark(benchmark).data
    values = {"data": data.model_dump(), "ingest": params.ingest.model_dump()}
    work = layout.work_dir("download", benchmark, work_key("download", benchmark, params))
    raw = layout.raw_dir(data.raw or benchmark)
    with stage_run("download", benchmark, flatten(values), work) as tracked:
        started = time.monotonic()
        try:
            with locked(raw / NOTES / "download.lock", f"the raw folder {raw}", wait=True):
                listing = source_of(data).prepare(raw)
                _check_classes(listing, data.classes, benchmark)
                measured = ingest(raw, [video.path for video in listing.videos], params.ingest, params.compute.cluster)
        except DiskFullError:
            raise
        except OSError as error:
            raise EverestError(
                f"{error.filename or raw}: {error.strerror or error}. Cure: free some space or mend the folder's "
                "permissions, and start again; what is complete is kept."
            ) from error
        rows, messages = manifest_rows(listing, measured, data.split, params.ingest)
        quarantine = quarantine_csv(rows, messages)
        metrics = _metrics(rows, listing, time.monotonic() - started)
        _check_budget(rows, listing, params.ingest.failure_budget, quarantine, work, benchmark)
        check_unchanged()
        _write(benchmark, listing, rows, quarantine, metrics)
        tracked.metrics(_tracked(metrics))
        tracked.artifact(layout.manifest_dir(benchmark) / "quarantine.csv", "data")
    return metrics


def plan(params: Params, benchmark: str) -> FetchPlan:
    """`everest download BENCH --dry-run`: which files would be fetched, with their sizes."""
    data = params.benchmark(benchmark).data
    raw = layout.raw_dir(data.raw or benchmark)
    files = source_of(data).plan(raw)
    missing = [file for file in files if not file.present]
    return {
        "folder": str(raw),
        "files_total": len(files),
        "files_missing": len(missing),
        "bytes_missing": sum(file.bytes or 0 for file in missing),
        "sizes_unknown": sum(file.bytes is None for file in missing),
        "bytes_free": free_bytes(raw),
        "files": [{"name": file.name, "bytes": file.bytes, "url": file.url} for file in missing[:1000]],
    }


def _write(benchmark: str, listing: Listing, rows: list[manifest.Row], quarantine: str, metrics: Counts) -> None:
    folder = layout.manifest_dir(benchmark)
    write_text(folder / "quarantine.csv", quarantine)
    manifest.save_classes(folder, listing.classes, listing.problems)
    manifest.save(manifest.from_rows(rows), folder / "manifest.parquet")
    write_text(layout.metrics_file("download", benchmark), json.dumps(headline(_tracked(metrics)), indent=1) + "\n")


def _tracked(metrics: Counts) -> dict[str, float]:
    """The stage's numbers under the names that runs are compared by; counts of a split or a reason below its name."""
    named = {f"data/{split}/{name}": n for split, counts in metrics["splits"].items() for name, n in counts.items()}
    named |= {f"data/reasons/{reason}": count for reason, count in metrics["reasons"].items()}
    values = {
        names.DATA_VIDEOS_OK: metrics["videos_ok"],
        names.DATA_VIDEOS_TOTAL: metrics["videos_total"],
        "data/frames_decoded": metrics["frames_decoded"],
        "data/bytes": metrics["bytes"],
        "data/classes": metrics["classes"],
        "data/problems": metrics["problems"],
        **named,
        names.WALL_SECONDS: metrics["seconds"],
    }
    return {name: float(value) for name, value in values.items()}


def _metrics(rows: list[manifest.Row], listing: Listing, seconds: float) -> Counts:
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    splits: dict[str, dict[str, int]] = {}
    for row in rows:
        count = splits.setdefault(row["split"], {"videos_ok": 0, "videos_total": 0})
        count["videos_total"] += 1
        count["videos_ok"] += not row["reason"]
    return {
        "videos_ok": sum(not row["reason"] for row in rows),
        "videos_total": len(rows),
        "frames_decoded": sum(row["frames_decoded"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "classes": len(listing.classes),
        "problems": len(listing.problems),
        "reasons": dict(sorted(reasons.items())),
        "splits": dict(sorted(splits.items())),
        "seconds": round(seconds, 2),
    }


def _check_classes(listing: Listing, expected: int, benchmark: str) -> None:
    for problem in listing.problems:
        log.warning("%s: %s", benchmark, problem)
    labels = {label for video in listing.videos for label in classes_of(video)}
    if fault := count_fault(f"benchmarks.{benchmark}.data.classes", expected, listing.classes, labels):
        raise InputError(fault)


def _check_budget(
    rows: list[manifest.Row], listing: Listing, budget: float, quarantine: str, work: Path, benchmark: str
) -> None:
    """Duplicates are no failures, nor are as many absent files as the publisher's copy lacks."""
    by_design = round(listing.missing_by_design * len(rows))
    missing = sum(row["reason"] == "missing" for row in rows)
    bad = sum(row["reason"] not in ("", "duplicate", "missing") for row in rows) + max(0, missing - by_design)
    usable = sum(not row["reason"] for row in rows)
    if usable and bad <= budget * len(rows):
        return
    path = work / "quarantine.csv"
    write_text(path, quarantine)
    named = [f"  {row['reason']}: {printable(row['path'])}" for row in rows if row["reason"]][:NAMED]
    raise EverestError(
        f"{bad} of {len(rows)} videos of {benchmark} cannot be used ({bad / max(1, len(rows)):.1%}); "
        f"ingest.failure_budget allows {budget:.1%}.\n" + "\n".join(named) + f"\nAll of them: {path}. "
        "Cure: mend or remove those files, or raise ingest.failure_budget if so many are to be expected."
    )
