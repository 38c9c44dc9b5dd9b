"""`everest cache ls | verify | gc`: what lies in the caches, whether it is whole, and what nobody needs any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.data.cache import INDEX, INFO, Cache, read_info
from pipeline.data.cache_publish import build, publish, store_dir, units_of
from pipeline.data.files import checksum_of, locked
from pipeline.errors import EverestError, InputError
from pipeline.params import Params


def ls() -> dict[str, Any]:
    """Every cache: videos, bytes, how it was made, and how many bytes of its store `gc` would free.

    A cache that does not open is listed with the reason.
    """
    found = {}
    for name in _names():
        entry: dict[str, Any] = {}
        try:
            info = read_info(layout.cache_dir(name))
            entry = {
                "videos": info["videos"],
                "frames_bytes": info["frames"]["bytes"],
                "maps_bytes": info["maps"]["bytes"],
                "shards": len(info["frames"]["shards"]) + len(info["maps"]["shards"]),
                "frames": info["frames"]["params"],
                "maps": info["maps"]["params"],
                "videos_failed": len(info["failed"]),
            }
        except InputError as error:
            entry["error"] = str(error)
        entry["reclaimable_bytes"] = sum(path.stat().st_size for path in _unneeded(name, None))
        found[name] = entry
    return {"caches": found}


def verify(benchmark: str | None = None, *, repair: bool = False, params: Params | None = None) -> dict[str, Any]:
    """Compare every file of a cache (of all caches: None) with its recorded size and checksum.

    Args:
        repair: make damaged or missing shards anew from the videos; needs `params`.

    Returns:
        {"caches": {name: {"files", "bytes", "damaged": [{file, reason}], "repaired"}}}

    Raises:
        EverestError: something is damaged and `repair` is False; names the files.
        InputError: no such cache.
    """
    names = [benchmark] if benchmark else _names()
    if benchmark and not layout.cache_dir(benchmark).is_dir() and not repair:
        read_info(layout.cache_dir(benchmark))
    result: dict[str, Any] = {}
    for name in names:
        checked = _check(layout.cache_dir(name))
        if checked["damaged"] and repair:
            if params is None:
                raise InputError("repairing needs params.yaml. Cure: run in the project's root.")
            _repair(name, params, [item["file"] for item in checked["damaged"]])
            again = _check(layout.cache_dir(name))
            checked["repaired"] = not again["damaged"]
        result[name] = checked
    bad = [f"{name}/{i['file']}: {i['reason']}" for name, c in result.items() for i in c["damaged"]]
    if bad and not repair:
        raise EverestError(
            f"{len(bad)} files of the cache are damaged: {'; '.join(bad[:5])}. "
            f"Cure: `everest cache verify {benchmark or names[0]} --repair` makes them anew from the videos."
        )
    return {"caches": result}


def gc(params: Params | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """Remove shards of the stores that neither the cache in place nor the current parameters need, and
    leftovers.

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
            leftovers = [p for p in store_dir(name).parent.glob("publish-*") if p.is_dir()]
            for folder in leftovers:
                if not dry_run:
                    shutil.rmtree(folder)
    return {"removed": count, "bytes": freed, "dry_run": dry_run}


def _names() -> list[str]:
    caches = layout.cache_dir("x").parent
    stores = store_dir("x").parent.parent
    found = {path.name for path in caches.glob("*") if path.is_dir()}
    return sorted(found | {path.parent.name for path in stores.glob("*/shards")})


def _check(folder: Path) -> dict[str, Any]:
    try:
        info = read_info(folder)
    except InputError as error:
        return {"files": 0, "bytes": 0, "damaged": [{"file": INFO, "reason": str(error)}]}
    files = [*info["frames"]["shards"], *info["maps"]["shards"], info["index"] | {"file": INDEX}]
    damaged = []
    for entry in files:
        path = folder / entry["file"]
        if not path.is_file():
            damaged.append({"file": entry["file"], "reason": "missing"})
        elif path.stat().st_size != entry["bytes"]:
            reason = f"{path.stat().st_size} bytes, expected {entry['bytes']}"
            damaged.append({"file": entry["file"], "reason": reason})
        elif checksum_of(path) != entry["xxh3"]:
            damaged.append({"file": entry["file"], "reason": "its checksum differs from the recorded one"})
    return {"files": len(files), "bytes": sum(int(e["bytes"]) for e in files), "damaged": damaged}


def _repair(name: str, params: Params, damaged: list[str]) -> None:
    """Forget the units that the damaged files belong to, make what is missing, publish."""
    store = store_dir(name)
    units, table = units_of(params, name)
    with locked(store.parent / "lock", f"the preprocess stage of {name}"):
        # The store may share its bytes with the cache, or be damaged by itself.
        for record in store.glob("*.json"):
            shards = json.loads(record.read_text(encoding="utf-8"))["shards"]
            if any(s["file"] in damaged or not _whole(store / s["file"], s) for s in shards):
                for shard in shards:
                    (store / shard["file"]).unlink(missing_ok=True)
                record.unlink()
        raw = layout.raw_dir(params.benchmark(name).data.raw or name)
        build(units, store, raw, params.preprocess.workers)
        publish(name, units, table, store, layout.cache_dir(name))
    Cache.open(layout.cache_dir(name))


def _whole(path: Path, shard: dict[str, Any]) -> bool:
    # A store may still hold units of another version, whose records have other checksums.
    return path.is_file() and path.stat().st_size == shard["bytes"] and checksum_of(path) == shard.get("xxh3")


def _unneeded(name: str, params: Params | None) -> list[Path]:
    """Files of a store that belong to no unit in use."""
    store = store_dir(name)
    needed: set[str] = set()
    try:
        info = read_info(layout.cache_dir(name))
        needed |= {_unit(shard["file"]) for part in ("frames", "maps") for shard in info[part]["shards"]}
    except InputError:
        # Without a readable cache everything that is finished may still be of use.
        needed |= {path.stem for path in store.glob("*.json")}
    if params is not None and name in params.benchmarks:
        units, _ = units_of(params, name)
        needed |= {f"frames-{unit.frames_key}" for unit in units} | {f"maps-{unit.maps_key}" for unit in units}
    return sorted(path for path in store.glob("*") if path.is_file() and _unit(path.name) not in needed)


def _unit(name: str) -> str:
    """`frames-<key>-0.arrow` and `frames-<key>.json` -> `frames-<key>`."""
    return "-".join(name.removesuffix(".json").split("-")[:2])
