"""Stage corpus: which videos of a benchmark pre-training sees.

Videos of the split `train` that are in the cache, each content once: equal SHA-256 are taken once, and a
video whose content is also in `val` or `test` is left out. The file is small, so that pre-training depends on
it instead of on whole caches.
"""

from __future__ import annotations

import hashlib
from typing import TypedDict

from pipeline import layout
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import FRAME_STEP
from pipeline.data.frame_step import Step, step_of
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.system.files import atomic_path
from pipeline.system.sealed import write_table
from pipeline.tracking import stage_run


class CorpusCounts(TypedDict):
    """Videos that pre-training sees, and those whose content another one has."""

    videos: int
    duplicates_left_out: int


def run(params: Params, benchmark: str | None) -> CorpusCounts:
    """Write data/corpus/<bench>.parquet (video_id, sha256, frames, label); returns its counts.

    Raises:
        InputError: no cache, or no training video in it.
    """
    if benchmark is None:
        raise InputError("corpus works on one benchmark. Cure: `everest corpus NAME`.")
    step = step_of(params, benchmark)
    work = layout.work_dir("corpus", benchmark, work_key("corpus", benchmark, params))
    with stage_run("corpus", benchmark, {"benchmark": benchmark, "data.frame_step": step.entry}, work) as tracked:
        counts = _run(benchmark, step)
        tracked.metrics(
            {"corpus/videos": counts["videos"], "corpus/duplicates_left_out": counts["duplicates_left_out"]}
        )
    return counts


def _run(benchmark: str, frame_step: Step) -> CorpusCounts:
    import pyarrow as pa

    cache = Cache.open(layout.cache_dir(benchmark))
    train = cache.rows("train")
    if not train:
        raise InputError(
            f"the cache of {benchmark} holds no video of the split 'train'. Cure: check data.split and the manifest."
        )
    held_out = {cache.sha256(row) for row in range(len(cache)) if cache.split(row) in ("val", "test")}
    seen: set[str] = set()
    rows: list[int] = []
    for row in train:
        content = cache.sha256(row)
        if content not in held_out and content not in seen:
            rows.append(row)
        seen.add(content)
    table = pa.table(
        {
            "video_id": pa.array([cache.ids[row] for row in rows], pa.string()),
            "sha256": pa.array([cache.sha256(row) for row in rows], pa.string()),
            "frames": pa.array([cache.num_frames(row) for row in rows], pa.int32()),
            "label": pa.array([cache.label(row) for row in rows], pa.int32()),
        }
    )
    # Pre-training depends on this file alone: how frames were made and at what step clips are cut makes it stale too.
    made = (layout.cache_dir(benchmark) / "cache.json").read_bytes()
    table = table.replace_schema_metadata(
        {"cache_sha256": hashlib.sha256(made).hexdigest(), FRAME_STEP: str(frame_step)}
    )
    check_unchanged()
    with atomic_path(layout.corpus_file(benchmark)) as temporary:
        write_table(table, temporary)
    return {"videos": len(rows), "duplicates_left_out": len(train) - len(rows)}
