"""`everest cache`: listing, verifying, repairing, clearing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_benchmark import make, params

from pipeline import layout
from pipeline.data.cache import admin as cache_admin
from pipeline.data.cache.publish import store_dir
from pipeline.data.cache.read import Cache
from pipeline.data.cache.records import VERSION
from pipeline.errors import EverestError, InputError
from pipeline.stages import preprocess
from pipeline.system.sealed import sealed_json


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    make(3)
    preprocess.run(params(), "small")
    return tmp_path


@pytest.mark.usefixtures("here")
def test_listing_says_what_is_there() -> None:
    entry = cache_admin.ls()["caches"]["small"]
    assert (entry["videos"], entry["shards"], entry["reclaimable_bytes"]) == (3, 2, 0)
    assert entry["frames_bytes"] > 3 * 20 * 64 * 64 * 3
    assert entry["frames"]["store"] == "raw"
    (layout.cache_dir("small") / "cache.json").write_text("{}")
    damaged = [{"file": "cache.json", "reason": f"written by cache version None, expected {VERSION}"}]
    assert cache_admin.ls()["caches"]["small"]["damaged"] == damaged


@pytest.mark.usefixtures("here")
def test_listing_and_verifying_name_what_is_damaged_with_one_cure() -> None:
    shard = next(layout.cache_dir("small").glob("frames-*"))
    shard.unlink()
    assert cache_admin.ls()["caches"]["small"]["damaged"] == [{"file": shard.name, "reason": "missing"}]
    (layout.cache_dir("small") / "cache.json").write_text('{"version": 99}')
    with pytest.raises(EverestError) as result:
        cache_admin.verify()
    assert str(result.value) == (
        f"1 damaged file: small/cache.json: written by cache version 99, expected {VERSION}. "
        "Cure: `everest cache verify --repair` makes them anew from the videos."
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "remove", "index", "lacks a key", "another version"])
def test_damage_is_found_and_repaired_from_the_videos(damage: str) -> None:
    folder = layout.cache_dir("small")
    assert cache_admin.verify("small")["caches"]["small"]["damaged"] == []
    before = {row: Cache.open(folder).frames(row, range(20)) for row in range(3)}
    shard = next(folder.glob("frames-*"))
    content = shard.read_bytes()
    if damage == "flip a bit":
        place = len(content) // 2
        with shard.open("r+b") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 16]))
    elif damage == "truncate":
        with shard.open("r+b") as file:
            file.truncate(1000)
    elif damage == "remove":
        shard.unlink()
    elif damage == "index":
        index = bytearray((folder / "index.parquet").read_bytes())
        index[: len(index) // 2] = bytes(len(index) // 2)
        (folder / "index.parquet").write_bytes(index)
        with pytest.raises(InputError, match=r"index.parquet: its checksum differs.*--repair"):
            Cache.open(folder)
    elif damage == "lacks a key":
        (folder / "cache.json").write_text(sealed_json({"version": VERSION, "frames": {}}))
        with pytest.raises(InputError, match=r"lacks benchmark, failed, index, maps, videos.*--repair"):
            Cache.open(folder)
    else:
        (folder / "cache.json").write_text('{"version": 1}')
        for record in store_dir("small").glob("*.json"):  # version 1 wrote SHA-256
            record.write_text(record.read_text().replace('"xxh3"', '"sha256"'))
    with pytest.raises(EverestError, match="everest cache verify small --repair"):
        cache_admin.verify("small")
    result = cache_admin.verify("small", repair=True, params=params())["caches"]["small"]
    assert result["repaired"]
    assert cache_admin.verify("small")["caches"]["small"]["damaged"] == []
    cache = Cache.open(folder)
    assert all(np.array_equal(cache.frames(row, range(20)), frames) for row, frames in before.items())


@pytest.mark.usefixtures("here")
def test_gc_removes_what_neither_the_cache_nor_the_parameters_need() -> None:
    preprocess.run(params(preprocess__store="jpeg"), "small")
    raw_files = {path.name for path in store_dir("small").glob("frames-*")}
    assert cache_admin.gc(params(), dry_run=True)["removed"] == 0
    planned = cache_admin.gc(params(preprocess__store="jpeg"), dry_run=True)
    assert planned["removed"] == 2
    assert planned["bytes"] > 3 * 20 * 64 * 64 * 3
    assert cache_admin.gc(params(preprocess__store="jpeg"))["bytes"] == planned["bytes"]
    assert len({path.name for path in store_dir("small").glob("frames-*")}) == len(raw_files) - 2
    assert cache_admin.verify("small")["caches"]["small"]["damaged"] == []


def test_an_unknown_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="everest preprocess nowhere"):
        cache_admin.verify("nowhere")
    assert cache_admin.ls() == {"caches": {}}
