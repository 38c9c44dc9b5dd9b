"""Stage preprocess: decode every video of a benchmark once, into cached frames and distance maps.

Reads the manifest and the videos; writes data/cache/<bench> and metrics/preprocess/<bench>.json. Interrupted
at any moment it continues with the next shard; a changed parameter makes only the shards anew that depend on
it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from pipeline import layout
from pipeline.data.cache.publish import (
    build,
    check_failures,
    forget_damaged,
    forget_passing_failures,
    has_its_size,
    publish,
    store_dir,
    units_of,
)
from pipeline.data.frame_step import step_of
from pipeline.data.ingest import cluster
from pipeline.errors import BusyError, InputError
from pipeline.params import Params, flatten
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.system.files import write_text
from pipeline.system.locks import locked
from pipeline.system.progress import counter
from pipeline.system.terminal import say
from pipeline.tracking import names, stage_run
from pipeline.tracking.headline import headline


class CacheMetrics(TypedDict):
    """A cache's content, and what was done to build it: shards taken over, frames decoded, time.

    Videos that failed are not among `videos`.
    """

    videos: int
    videos_failed: int
    frames_gib: float
    maps_mib: float
    shards: int
    units_reused: int
    frames_decoded: int
    wall_seconds: float


def run(params: Params, benchmark: str | None) -> CacheMetrics:
    """Build the cache of one benchmark; returns the stage's metrics.

    Raises:
        InputError: no manifest, or parameters that do not fit together.
        EverestError: the disk is full, a worker died, or more videos failed than ingest.failure_budget allows.
    """
    if benchmark is None:
        raise InputError("preprocess works on one benchmark. Cure: `everest preprocess NAME`.")
    values = {
        "preprocess": params.preprocess.model_dump(exclude={"workers"}),
        "clip": {"resolution": params.clip.resolution},
        "frame_step": step_of(params, benchmark).entry,
    }
    work = layout.work_dir("preprocess", benchmark, work_key("preprocess", benchmark, params))
    with stage_run("preprocess", benchmark, flatten(values), work) as tracked:
        metrics = _run(params, benchmark)
        named = _tracked(metrics)
        tracked.metrics(named)
        write_text(layout.metrics_file("preprocess", benchmark), json.dumps(headline(named), indent=1) + "\n")
    return metrics


def _run(params: Params, benchmark: str) -> CacheMetrics:
    started = time.perf_counter()
    store = store_dir(benchmark)
    units = units_of(params, benchmark)
    with _turn(store.parent / "lock", benchmark):
        forget_damaged(store, has_its_size)
        forget_passing_failures(units, store)
        reused = sum(not unit.missing(store) for unit in units)
        with cluster.executor(params.compute.cluster) as executor:
            progress = counter(f"preprocess {benchmark}")
            decoded = build(units, store, params.preprocess.workers, progress, executor)
        check_failures(benchmark, units, store, params.ingest.failure_budget)
        check_unchanged()
        info = publish(benchmark, units, store, layout.cache_dir(benchmark))
    failed = info["failed"]
    seconds = time.perf_counter() - started
    return {
        "videos": info["videos"],
        "videos_failed": len(failed),
        "frames_gib": round(info["frames"]["bytes"] / 2**30, 4),
        "maps_mib": round(info["maps"]["bytes"] / 2**20, 4),
        "shards": len(info["frames"]["shards"]),
        "units_reused": reused,
        "frames_decoded": decoded,
        "wall_seconds": round(seconds, 2),
    }


@contextlib.contextmanager
def _turn(lock: Path, benchmark: str) -> Iterator[None]:
    """Wait for whoever builds shards of this benchmark: what they have made need not be made again."""
    what = f"the preprocess stage of {benchmark}"
    try:
        with locked(lock, what):
            pass
    except BusyError:
        say(f"preprocess {benchmark}: waits for another one that works in {lock.parent}")
    with locked(lock, what, wait=True):
        yield


def _tracked(metrics: CacheMetrics) -> dict[str, float]:
    """The stage's numbers under the names that runs are compared by."""
    values = {
        "preprocess/frames_gib": metrics["frames_gib"],
        "preprocess/maps_mib": metrics["maps_mib"],
        "preprocess/shards": metrics["shards"],
        "preprocess/units_reused": metrics["units_reused"],
        "preprocess/frames_decoded": metrics["frames_decoded"],
        names.WALL_SECONDS: metrics["wall_seconds"],
        names.DATA_VIDEOS_OK: metrics["videos"],
        names.DATA_VIDEOS_TOTAL: metrics["videos"] + metrics["videos_failed"],
    }
    return {name: float(value) for name, value in values.items()}
