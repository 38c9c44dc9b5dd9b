"""From a manifest to a finished cache: building what is missing on several processes, then publishing the whole."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline import layout, model_folder
from pipeline.data.cache.build import FrameRule, MapRule, Unit, build_unit, plan, read_unit
from pipeline.data.cache.maps import trained_embedding
from pipeline.data.cache.records import (
    INDEX,
    INFO,
    VERSION,
    CacheInfo,
    FileRecord,
    FrameRow,
    IndexRow,
    Key,
    MapRow,
    PartInfo,
    ShardRecord,
    UnitRecord,
    index_schema,
)
from pipeline.data.cache.write import disk_full_error
from pipeline.data.frame_source import usable_videos
from pipeline.data.frame_step import step_of
from pipeline.errors import EverestError, InputError
from pipeline.params import Params
from pipeline.system.files import atomic_folder, checksum_of, link
from pipeline.system.processes import die_with_parent
from pipeline.system.sealed import is_whole, sealed_json, write_table

#: Reasons of failed videos that may pass by themselves, or by a file that is put back.
PASSING = frozenset({"missing", "unreadable", "wrong_hash"})


def store_dir(benchmark: str) -> Path:
    """Where shard units are kept between runs."""
    return layout.saved_dir("preprocess", benchmark, "shards")


def rules(params: Params, benchmark: str) -> tuple[FrameRule, MapRule]:
    """What params.yaml says about the frames and the maps of one benchmark's cache.

    Raises:
        InputError: `preprocess.map_weights` holds no embedding.
    """
    chosen, step = params.preprocess, step_of(params, benchmark)
    keep_every = step.frames if chosen.frames == "informative" else chosen.keep_every if chosen.frames == "every" else 1
    frames = FrameRule(chosen.store, chosen.jpeg_quality, chosen.short_side, keep_every)
    weights, digest = None, None
    if chosen.map_source == "embedding" and chosen.map_weights is not None:
        trained_embedding(Path(chosen.map_weights))  # refused here, before any video is decoded
        weights, digest = str(Path(chosen.map_weights).resolve()), model_folder.sha256(Path(chosen.map_weights))
    pixels = params.clip.resolution, chosen.short_side
    return frames, MapRule(chosen.map_source, step, *pixels, weights, digest)


def units_of(params: Params, benchmark: str) -> list[Unit]:
    """The shard units that the current parameters ask for.

    Raises:
        InputError: no manifest, or no usable video in it.
    """
    folder = layout.manifest_dir(benchmark)
    raw = layout.raw_dir(params.benchmark(benchmark).data.raw or benchmark)
    # Absolute: the processes of a cluster have their own current folder.
    videos = [v for v in usable_videos(folder / "manifest.parquet", raw.absolute()) if v.split != "unused"]
    if not videos:
        raise InputError(
            f"the manifest of {benchmark} lists no usable video. Cure: look into {folder / 'quarantine.csv'} "
            f"and run `everest download {benchmark}` again."
        )
    frame_rule, map_rule = rules(params, benchmark)
    return plan(videos, frame_rule, map_rule, params.preprocess.shard_mib << 20)


def forget_damaged(store: Path, is_intact: Callable[[Path, ShardRecord], bool]) -> None:
    """Remove from a store every unit whose record does not parse or whose shards are not `whole`.

    It then counts as missing and is made anew.
    """
    for record in store.glob("*.json"):
        try:
            values = json.loads(record.read_text(encoding="utf-8"))
            shards = values["shards"]
            if is_whole(values) and all(is_intact(store / shard["file"], shard) for shard in shards):
                continue
        except (ValueError, KeyError, TypeError):
            pass  # what it listed is found by its name
        _forget(store, record.stem)


def forget_passing_failures(units: Sequence[Unit], store: Path) -> None:
    """Remove the units that lack a video whose file could not be had: their videos are tried again.

    A disk that was not mounted must not be remembered as broken videos.
    """
    for stem in sorted({stem for unit in units for stem in unit.stems.values()}):
        if (store / f"{stem}.json").is_file():
            reasons = [video["reason"].partition(":")[0] for video in read_unit(store, stem)["failed"]]
            if not PASSING.isdisjoint(reasons):
                _forget(store, stem)


def check_failures(benchmark: str, units: Sequence[Unit], store: Path, budget: float) -> None:
    """Refuse to publish a cache that lacks too many videos: the one in place stays.

    The units concerned are forgotten, so that the next start tries their videos again.

    Raises:
        EverestError: more than `budget` of the videos failed; names some with their reasons.
    """
    stems = sorted({stem for unit in units for stem in unit.stems.values()})
    records = {stem: read_unit(store, stem) for stem in stems}
    failed = _failed(records.values())
    total = sum(len(unit.videos) for unit in units)
    if len(failed) <= budget * total:
        return
    for stem, record in records.items():
        if record["failed"]:
            _forget(store, stem)
    first = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])
    raise EverestError(
        f"{len(failed)} of {total} videos of {benchmark} cannot be read, ingest.failure_budget = {budget} allows "
        f"{int(budget * total)}. First: {first}. Cure: put them back or mend them and run this again, which tries them "
        f"again; or `everest download {benchmark}`, which lists what is there now; or raise the budget."
    )


def _failed(records: Iterable[UnitRecord[Any]]) -> dict[str, str]:
    """video_id -> reason; a video fails once, whichever parts were being made."""
    return {video["video_id"]: video["reason"] for record in records for video in record["failed"]}


def _forget(store: Path, stem: str) -> None:
    for shard in store.glob(f"{stem}-*.arrow"):
        shard.unlink()
    (store / f"{stem}.json").unlink()


def has_its_size(path: Path, shard: FileRecord) -> bool:
    """Whether a shard is there in its recorded length: what can be asked before every run, at the cost of a `stat`."""
    return path.is_file() and path.stat().st_size == shard["bytes"]


def build(
    units: Sequence[Unit],
    store: Path,
    workers: int,
    progress: Callable[[Iterable[int], int], Iterable[int]] | None = None,
    executor: Executor | None = None,
) -> int:
    """Make the missing parts of all units; returns the number of frames decoded.

    Args:
        workers: processes; 1 builds here.
        executor: where to run instead (for instance of a Dask cluster that shares this file system).

    Raises:
        EverestError: the disk is full or a worker died; finished units are kept.
    """
    missing = [unit for unit in units if unit.missing(store)]
    wrap = progress or (lambda items, total: items)
    if executor is None and (workers == 1 or len(missing) <= 1):
        return sum(wrap((build_unit(unit, store) for unit in missing), len(missing)))
    if executor is not None:
        return sum(wrap(_gather(executor, missing, store), len(missing)))
    # Spawned, not forked: the caller may hold threads and locks of other libraries.
    with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _begin, (os.getpid(),)) as pool:
        return sum(wrap(_gather(pool, missing, store), len(missing)))


def _begin(parent: int) -> None:
    """Prepare a worker, before all else: it ends with its parent and keeps to one core.

    Left alone it would go on writing the shards that the next start writes. There are as many workers as cores are
    meant to be used.
    """
    die_with_parent(signal.SIGKILL, parent)
    os.environ["OMP_NUM_THREADS"] = "1"


def _gather(executor: Executor, units: Sequence[Unit], store: Path) -> Iterator[int]:
    futures = [executor.submit(build_unit, unit, store.resolve()) for unit in units]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise EverestError(
            "a preprocess worker died (killed, or a decoder crashed). Finished shards are kept. Cure: run it again; if "
            "it dies at the same place, run `everest download` so that ingest finds the bad video."
        ) from None
    finally:
        for future in futures:
            future.cancel()


def publish(benchmark: str, units: Sequence[Unit], store: Path, final: Path) -> CacheInfo:
    """Link the units' shards into a folder with its index and cache.json, and put it in place."""
    import pyarrow as pa

    frames: list[UnitRecord[FrameRow]] = [read_unit(store, unit.stems["frames"]) for unit in units]
    maps: list[UnitRecord[MapRow]] = [read_unit(store, unit.stems["maps"]) for unit in units]
    failed = _failed([*frames, *maps])
    frame_rows = {row["video_id"]: row for record in frames for row in record["rows"]}
    map_rows = {row["video_id"]: row for record in maps for row in record["rows"]}
    index: list[IndexRow] = []
    for video in (video for unit in units for video in unit.videos if video.video_id not in failed):
        frame_row, map_row = frame_rows[video.video_id], map_rows[video.video_id]
        index.append(
            {
                "video_id": video.video_id,
                "split": video.split,
                "splits": video.splits,
                "sha256": video.sha256,
                "frame_file": frame_row["file"],
                "map_file": map_row["file"],
                "label": video.label,
                "frames": video.frames,
                "stored": frame_row["stored"],
                "height": frame_row["height"],
                "width": frame_row["width"],
                "batch": frame_row["batch"],
                "map_row": map_row["row"],
                "places": map_row["places"],
            }
        )
        if video.labels is not None:
            index[-1]["labels"] = list(video.labels)
        if units[0].map_rule.step.seconds is not None:
            index[-1]["fps"] = video.fps
    parts = _part(units[0].frame_rule.key(), frames), _part(units[0].map_rule.key(), maps)
    with disk_full_error(final), atomic_folder(final) as building:
        for shard in parts[0]["shards"] + parts[1]["shards"]:
            link(store / shard["file"], building / shard["file"])
        write_table(pa.Table.from_pylist(index, schema=index_schema(index)), building / INDEX)
        info: CacheInfo = {
            "version": VERSION,
            "benchmark": benchmark,
            "videos": len(index),
            "frames": parts[0],
            "maps": parts[1],
            "index": {"bytes": (building / INDEX).stat().st_size, "xxh3": checksum_of(building / INDEX)},
            "failed": failed,
        }
        (building / INFO).write_text(sealed_json(info), encoding="utf-8")
    return info


def _part(params: Key, records: Iterable[UnitRecord[Any]]) -> PartInfo[Key]:
    shards = [shard for record in records for shard in record["shards"]]
    return {"params": params, "bytes": sum(shard["bytes"] for shard in shards), "shards": shards}
