"""`everest cache ls | verify | gc`: what lies in the caches, whether it is whole, and what nobody needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

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
from pipeline.data.cache.records import INFO, FrameKey, MapKey, ShardRecord, files_of, read_info
from pipeline.errors import EverestError, InputError, parted
from pipeline.params import Params
from pipeline.system.files import checksum_of, leftovers
from pipeline.system.locks import locked


class DamagedFile(TypedDict):
    file: str
    reason: str


class Listed(TypedDict):
    """What `ls` says of one cache; of one whose cache.json cannot be read only what is always there."""

    videos: NotRequired[int]
    frames_bytes: NotRequired[int]
    maps_bytes: NotRequired[int]
    shards: NotRequired[int]
    frames: NotRequired[FrameKey]
    maps: NotRequired[MapKey]
    videos_failed: NotRequired[int]
    damaged: list[DamagedFile]
    reclaimable_bytes: int


class Checked(TypedDict):
    """What `verify` says of one cache."""

    files: int
    bytes: int
    damaged: list[DamagedFile]
    repaired: NotRequired[bool]


class Removed(TypedDict):
    removed: int
    bytes: int
    dry_run: bool


def ls() -> dict[str, dict[str, Listed]]:
    """Every cache: videos, bytes, how it was made, and how many bytes of its store `gc` would free.

    What is missing or has another size is listed as damaged; `verify` looks into the files, too.
    """
    caches: dict[str, Listed] = {}
    for name in _names():
        folder = layout.cache_dir(name)
        checked = _check(folder, has_its_size)
        state: Listed = {
            "damaged": checked["damaged"],
            "reclaimable_bytes": sum(path.stat().st_size for path in _unneeded(name, None)),
        }
        if checked["files"]:
            info = read_info(folder)
            state = {
                "videos": info["videos"],
                "frames_bytes": info["frames"]["bytes"],
                "maps_bytes": info["maps"]["bytes"],
                "shards": len(info["frames"]["shards"]) + len(info["maps"]["shards"]),
                "frames": info["frames"]["params"],
                "maps": info["maps"]["params"],
                "videos_failed": len(info["failed"]),
                **state,
            }
        caches[name] = state
    return {"caches": caches}


def verify(
    benchmark: str | None = None, *, repair: bool = False, params: Params | None = None
) -> dict[str, dict[str, Checked]]:
    """Compare every file of a cache (of all caches: None) with its recorded size and checksum.

    Args:
        repair: make damaged or missing shards anew from the videos; needs `params`.

    Raises:
        EverestError: something is damaged, or is still so after `repair`; names the files.
        InputError: no such cache.
    """
    names = [benchmark] if benchmark else _names()
    if benchmark and not layout.cache_dir(benchmark).is_dir() and not repair:
        read_info(layout.cache_dir(benchmark))
    result: dict[str, Checked] = {}
    for name in names:
        checked = _check(layout.cache_dir(name), _unchanged)
        if checked["damaged"] and repair:
            if params is None:
                raise InputError("repairing needs params.yaml. Cure: run in the project's root.")
            _repair(name, params)
            again = _check(layout.cache_dir(name), _unchanged)
            if again["damaged"]:
                first = _first_damaged({name: again})
                raise EverestError(
                    f"the cache of {name} is damaged again right after it was made anew: {first}. "
                    "Cure: look at this disk (`dmesg`), and move data/ and .work/ to another one."
                )
            checked["repaired"] = True
        result[name] = checked
    bad = sum(len(checked["damaged"]) for checked in result.values())
    if bad and not repair:
        command = f"everest cache verify {benchmark or ''}".strip()
        raise EverestError(
            f"{bad} damaged {'file' if bad == 1 else 'files'}: {_first_damaged(result)}. "
            f"Cure: `{command} --repair` makes them anew from the videos."
        )
    return {"caches": result}


def _first_damaged(result: dict[str, Checked]) -> str:
    """The first damaged files with their reasons."""
    damaged = [f"{name}/{file['file']}: {file['reason']}" for name, each in result.items() for file in each["damaged"]]
    return "; ".join(damaged[:5])


def gc(params: Params | None = None, *, dry_run: bool = False) -> Removed:
    """Remove leftovers, and shards that neither the cache in place nor the current parameters need.

    Returns:
        {"removed": files, "bytes": freed} (to be removed and freed with `dry_run`).
    """
    count, freed = 0, 0
    for name in _names():
        with locked(store_dir(name).parent / "lock", f"the preprocess stage of {name}"):
            for path in _unneeded(name, params):
                count += 1
                # A file that the cache links to frees nothing here.
                freed += path.stat().st_size if path.stat().st_nlink == 1 else 0
                if not dry_run:
                    path.unlink()
            for folder in leftovers(layout.cache_dir(name)):
                if not dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
    return {"removed": count, "bytes": freed, "dry_run": dry_run}


def _names() -> list[str]:
    caches = layout.cache_dir("x").parent
    stores = store_dir("x").parent.parent
    in_place = {path.name for path in caches.glob("[!.]*") if path.is_dir()}
    return sorted(in_place | {path.parent.name for path in stores.glob("*/shards")})


def _check(folder: Path, is_intact: Callable[[Path, ShardRecord], bool]) -> Checked:
    try:
        info = read_info(folder)
    except InputError as error:
        # Who lists several says the cure once.
        reason = parted(error)[0].removeprefix(f"{folder / INFO}: ")
        return {"files": 0, "bytes": 0, "damaged": [{"file": INFO, "reason": reason}]}
    files = files_of(info)
    damaged: list[DamagedFile] = []
    for record in files:
        path, reason = folder / record["file"], ""
        if not path.is_file():
            reason = "missing"
        elif not has_its_size(path, record):
            reason = f"{path.stat().st_size} bytes, expected {record['bytes']}"
        elif not is_intact(path, record):
            reason = "its checksum differs from the recorded one"
        if reason:
            damaged.append({"file": record["file"], "reason": reason})
    return {"files": len(files), "bytes": sum(record["bytes"] for record in files), "damaged": damaged}


def _repair(name: str, params: Params) -> None:
    """Forget the damaged units of the store (it may share its bytes with the cache), make what is missing, publish."""
    store, units = store_dir(name), units_of(params, name)
    with locked(store.parent / "lock", f"the preprocess stage of {name}"):
        forget_damaged(store, _unchanged)
        forget_passing_failures(units, store)
        build(units, store, params.preprocess.workers)
        check_failures(name, units, store, params.ingest.failure_budget)
        publish(name, units, store, layout.cache_dir(name))


def _unchanged(path: Path, shard: ShardRecord) -> bool:
    # A store may still hold units of another version, whose records have other checksums.
    return has_its_size(path, shard) and checksum_of(path) == shard.get("xxh3")


def _unneeded(name: str, params: Params | None) -> list[Path]:
    """Files of a store that belong to no unit in use."""
    store = store_dir(name)
    needed: set[str] = set()
    try:
        info = read_info(layout.cache_dir(name))
        needed |= {_unit(record["file"]) for record in files_of(info)}
    except InputError:
        # Without a readable cache everything that is finished may still be of use.
        needed |= {path.stem for path in store.glob("*.json")}
    if params is not None and name in params.benchmarks:
        needed |= {stem for unit in units_of(params, name) for stem in unit.stems.values()}
    return sorted(path for path in store.glob("*") if path.is_file() and _unit(path.name) not in needed)


def _unit(name: str) -> str:
    """`frames-<key>-0.arrow` and `frames-<key>.json` -> `frames-<key>`."""
    return "-".join(name.removesuffix(".json").split("-")[:2])
