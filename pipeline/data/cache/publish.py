"""From a manifest to a finished cache: building what is missing on several processes, then publishing the whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline import layout, model_folder
from pipeline.data import manifest
from pipeline.data.cache.build import FrameRule, MapRule, Unit, Video, build_unit, plan, read_unit, total_failed
from pipeline.data.cache.maps import trained_embedding
from pipeline.data.cache.read import INDEX, INFO, VERSION
from pipeline.data.cache.write import disk_full_error
from pipeline.errors import EverestError, InputError
from pipeline.params import Params
from pipeline.system.files import checksum_of, fsync_folder, link
from pipeline.system.processes import die_with_parent
from pipeline.system.sealed import is_whole, sealed_json, write_table

COLUMNS = [
    "video_id",
    "path",
    "sha256",
    "split",
    "splits",
    "label",
    "frames_decoded",
    "height",
    "width",
    "reader",
    "jumps",
]


def store_dir(benchmark: str) -> Path:
    """Where shard units are kept between runs."""
    return layout.saved_dir("preprocess", benchmark, "shards")


def rules(params: Params, benchmark: str) -> tuple[FrameRule, MapRule]:
    """What params.yaml says about the frames and the maps of one benchmark's cache.

    Raises:
        InputError: `preprocess.map_weights` holds no embedding.
    """
    own, step = params.preprocess, params.benchmark(benchmark).data.frame_step
    keep_every = step if own.frames == "informative" else own.keep_every if own.frames == "every" else 1
    frames = FrameRule(own.store, own.jpeg_quality, own.short_side, keep_every)
    weights, digest = None, None
    if own.map_source == "embedding" and own.map_weights is not None:
        trained_embedding(Path(own.map_weights))  # refused here, before any video is decoded
        weights, digest = str(Path(own.map_weights).resolve()), model_folder.sha256(Path(own.map_weights))
    return frames, MapRule(own.map_source, step, params.clip.resolution, own.short_side, weights, digest)


def units_of(params: Params, benchmark: str) -> tuple[list[Unit], Any]:
    """The shard units that the current parameters ask for, and the manifest rows they are made from."""
    table = manifest.load(layout.manifest_dir(benchmark) / "manifest.parquet", columns=COLUMNS)
    table = table.filter([split != "unused" for split in table["split"].to_pylist()])
    videos = [
        Video(
            row["video_id"],
            row["path"],
            row["sha256"],
            row["frames_decoded"],
            row["height"],
            row["width"],
            row["reader"],
            row["jumps"],
        )
        for row in table.to_pylist()
    ]
    if not videos:
        raise InputError(
            f"the manifest of {benchmark} lists no usable video. Cure: look into "
            f"{layout.manifest_dir(benchmark) / 'quarantine.csv'} and run `everest download {benchmark}` again."
        )
    frame_rule, map_rule = rules(params, benchmark)
    return plan(videos, frame_rule, map_rule, params.preprocess.shard_mib << 20), table


def forget_damaged(store: Path, whole: Callable[[Path, dict[str, Any]], bool]) -> None:
    """Remove from a store every unit whose record does not parse or whose shards are not `whole`.

    It then counts as missing and is made anew.
    """
    for record in store.glob("*.json"):
        try:
            values = json.loads(record.read_text(encoding="utf-8"))
            shards = values["shards"]
            if is_whole(values) and all(whole(store / shard["file"], shard) for shard in shards):
                continue
        except (ValueError, KeyError, TypeError):
            pass  # what it listed is found by its name
        _forget(store, record.stem)


def check_failures(benchmark: str, units: Sequence[Unit], store: Path, budget: float) -> None:
    """Refuse to publish a cache that lacks too many videos: the one in place stays.

    The units concerned are forgotten, so that the next start tries their videos again: a disk that was not mounted must
    not be remembered as broken videos.

    Raises:
        EverestError: more than `budget` of the videos failed; names some with their reasons.
    """
    keys = {*(("frames", unit.frames_key) for unit in units), *(("maps", unit.maps_key) for unit in units)}
    records = {f"{part}-{key}": read_unit(store, part, key) for part, key in sorted(keys)}
    failed = total_failed(records.values())
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


def _forget(store: Path, stem: str) -> None:
    for shard in store.glob(f"{stem}-*.arrow"):
        shard.unlink()
    (store / f"{stem}.json").unlink()


def has_its_size(path: Path, shard: dict[str, Any]) -> bool:
    """Whether a shard is there in its recorded length: what can be asked before every run, at the cost of a `stat`."""
    return path.is_file() and path.stat().st_size == shard["bytes"]


def build(
    units: Sequence[Unit],
    store: Path,
    raw: Path,
    workers: int,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
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
        return sum(wrap((build_unit(unit, store, raw) for unit in missing), len(missing)))
    if executor is not None:
        return sum(wrap(_gather(executor, missing, store, raw), len(missing)))
    # Spawned, not forked: the caller may hold threads and locks of other libraries.
    with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _begin, (os.getpid(),)) as pool:
        return sum(wrap(_gather(pool, missing, store, raw), len(missing)))


def _begin(parent: int) -> None:
    """Prepare a worker, before all else: it ends with its parent and keeps to one core.

    Left alone it would go on writing the shards that the next start writes. There are as many workers as cores are
    meant to be used.
    """
    die_with_parent(signal.SIGKILL, parent)
    os.environ["OMP_NUM_THREADS"] = "1"


def _gather(executor: Executor, units: Sequence[Unit], store: Path, raw: Path) -> Iterator[int]:
    futures = [executor.submit(build_unit, unit, store.resolve(), raw.resolve()) for unit in units]
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


def publish(benchmark: str, units: Sequence[Unit], table: Any, store: Path, final: Path) -> dict[str, Any]:
    """Link the units' shards into a folder with its index and cache.json, and put it in place."""
    import pyarrow as pa

    records = {
        "frames": [read_unit(store, "frames", unit.frames_key) for unit in units],
        "maps": [read_unit(store, "maps", unit.maps_key) for unit in units],
    }
    failed = total_failed(records["frames"] + records["maps"])
    frames = {row["video_id"]: row for record in records["frames"] for row in record["rows"]}
    maps = {row["video_id"]: row for record in records["maps"] for row in record["rows"]}
    rows = []
    for video in table.to_pylist():
        name = video["video_id"]
        if name in failed:
            continue
        mine, own = frames[name], maps[name]
        rows.append(
            {key: video[key] for key in ("video_id", "split", "splits", "label", "sha256")}
            | {"frames": video["frames_decoded"], "stored": mine["stored"]}
            | {"height": mine["height"], "width": mine["width"]}
            | {"frame_file": mine["file"], "batch": mine["batch"]}
            | {"map_file": own["file"], "map_row": own["row"], "places": own["places"]}
        )
    building, _ = leftovers(final)
    shutil.rmtree(building, ignore_errors=True)
    with disk_full_error(building):
        building.mkdir(parents=True)
        for part in records:
            for record in records[part]:
                for shard in record["shards"]:
                    link(store / shard["file"], building / shard["file"])
        write_table(pa.Table.from_pylist(rows, schema=_index_schema()), building / INDEX)
        info = {
            "version": VERSION,
            "benchmark": benchmark,
            "videos": len(rows),
            "frames": _part(units[0].frame_rule.key(), records["frames"]),
            "maps": _part(units[0].map_rule.key(), records["maps"]),
            "index": {"bytes": (building / INDEX).stat().st_size, "xxh3": checksum_of(building / INDEX)},
            "failed": failed,
        }
        (building / INFO).write_text(sealed_json(info), encoding="utf-8")
        for path in (building / INDEX, building / INFO):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(building)
        _swap(building, final)
    return info


def _part(params: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shards = [shard for record in records for shard in record["shards"]]
    return {"params": params, "bytes": sum(int(shard["bytes"]) for shard in shards), "shards": shards}


def leftovers(final: Path) -> tuple[Path, Path]:
    """Where a cache is put together, and where the one before it goes: both beside it.

    A folder can only be renamed within its file system, and .work may lie on another one. What an interrupted run left
    there is of no use.
    """
    return final.with_name(f".{final.name}.new"), final.with_name(f".{final.name}.old")


def _swap(building: Path, final: Path) -> None:
    _, old = leftovers(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.replace(old)
    building.replace(final)
    fsync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _index_schema() -> Any:
    import pyarrow as pa

    text = ("video_id", "split", "splits", "sha256", "frame_file", "map_file")
    numbers = ("label", "frames", "stored", "height", "width", "batch", "map_row", "places")
    return pa.schema([(name, pa.string()) for name in text] + [(name, pa.int32()) for name in numbers])
