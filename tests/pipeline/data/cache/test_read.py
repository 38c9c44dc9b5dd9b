"""The cache: what is written is what was decoded, damage is refused, work continues where it stopped."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import timm
import torch
from PIL import Image
from small_benchmark import ROOT, make, params

from models.selection import slot_distances
from models.weights import save_model
from pipeline import layout
from pipeline.bench.evidence import embed_slots
from pipeline.data import manifest
from pipeline.data.cache import admin as cache_admin
from pipeline.data.cache import build as cache_build
from pipeline.data.cache import write as cache_write
from pipeline.data.cache.publish import build, publish, store_dir, units_of
from pipeline.data.cache.read import Cache, Rows
from pipeline.data.cache.records import VERSION
from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import ClipError, usable_videos
from pipeline.data.frame_step import Step
from pipeline.data.pixels.normalise import normalise
from pipeline.data.video import open_video, write_video
from pipeline.errors import EverestError, InputError
from pipeline.params import Params
from pipeline.stages import corpus, preprocess
from pipeline.tracking import names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    return tmp_path


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few videos, so that a small benchmark has several."""
    monkeypatch.setattr(cache_build, "MIN_UNIT", 40_000)


def decoded(video: str) -> np.ndarray:
    with open_video(layout.raw_dir("small") / f"{video}.mp4") as reader:
        return reader.frames(range(reader.num_frames))


def shard_names(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*.arrow")}


@pytest.mark.usefixtures("small_units")
def test_raw_frames_come_back_exactly_and_in_any_order(here: Path) -> None:
    ids = make(12)
    metrics = preprocess.run(params(), "small")
    assert (metrics["videos"], metrics["videos_failed"], metrics["frames_decoded"]) == (12, 0, 240)
    assert metrics["shards"] > 1
    headline = json.loads(layout.metrics_file("preprocess", "small").read_text())
    assert (headline["data/videos_ok"], headline["data/videos_total"]) == (12, 12)
    cache = Cache.open(layout.cache_dir("small"))
    assert cache.ids == sorted(ids)
    for row in (0, 5, 11):
        expected = decoded(cache.ids[row])
        assert np.array_equal(cache.frames(row, range(20)), expected)
        assert np.array_equal(cache.frames(row, [7, 3, 3]), expected[[7, 3, 3]])
        assert cache.size(row) == (64, 64)
        maps = cache.maps(row)
        assert maps is not None
        assert maps.shape == (20, 4)
    assert cache.label(3) == 3
    assert cache.rows("test") == [3, 7, 11]


def test_raw_frames_that_were_checked_are_copied_in_one_piece(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(6)
    preprocess.run(params(), "small")
    cache = Cache.open(layout.cache_dir("small"))
    height, width = cache.size(2)
    wanted = [5, 0, 3, 3]
    checked, again = (np.zeros((4, height, width, 3), np.uint8) for _ in range(2))
    wider = np.zeros((4, height + 2, width + 3, 3), np.uint8)
    cache.fill(2, wanted, checked)
    cache.fill(2, wanted, wider)
    with monkeypatch.context() as patched:
        patched.setattr(Rows, "row", lambda *_: pytest.fail("a frame for itself"))
        cache.fill(2, wanted, again)
    assert np.array_equal(again, checked)
    assert np.array_equal(wider[:, :height, :width], checked)


def test_jpeg_frames_are_close_and_much_smaller(here: Path) -> None:
    make(4)
    preprocess.run(params(preprocess__store="jpeg"), "small")
    cache = Cache.open(layout.cache_dir("small"))
    expected = decoded(cache.ids[2])[[0, 9]].astype(int)
    stored = cache.frames(2, [0, 9]).astype(int)
    assert np.abs(stored - expected).mean() < 4
    assert cache.bytes_of(2, [0, 9]) < 0.6 * expected.size


def test_only_every_kth_frame_is_stored_where_clips_need_no_other(here: Path) -> None:
    make(3)
    with pytest.raises(InputError, match="keep_every: 1 or a divisor"):
        params(preprocess__frames="every", preprocess__keep_every=2)
    settings = params(preprocess__frames="every", preprocess__keep_every=2, benchmarks__small__data__frame_step=2)
    preprocess.run(settings, "small")
    cache = Cache.open(layout.cache_dir("small"))
    assert np.array_equal(cache.frames(1, [4, 18]), decoded(cache.ids[1])[[4, 18]])
    with pytest.raises(ClipError, match=r"v001.*holds every 2"):
        cache.frames(1, [3])


def test_larger_frames_are_shrunk_to_the_short_side_as_pillow_does_and_as_straight_from_the_videos(here: Path) -> None:
    make(2, sizes=((96, 128), (128, 96)))
    preprocess.run(params(), "small")
    cache = Cache.open(layout.cache_dir("small"))
    assert [cache.size(row) for row in range(2)] == [(64, 85), (85, 64)]
    files = usable_videos(layout.manifest_dir("small") / "manifest.parquet", layout.raw_dir("small"))
    videos = VideoSource(files, short_side=64)
    for row, (height, width) in enumerate([(64, 85), (85, 64)]):
        cached = cache.frames(row, [0, 13])
        straight = np.zeros_like(cached)
        videos.fill(row, [0, 13], straight)
        assert np.array_equal(cached, straight)
        for frame, full in zip(cached, decoded(cache.ids[row])[[0, 13]], strict=True):
            pillow = np.asarray(Image.fromarray(full).resize((width, height), Image.Resampling.BILINEAR))
            assert np.abs(frame.astype(int) - pillow).max() <= 1


@pytest.mark.usefixtures("small_units")
def test_a_changed_parameter_makes_only_its_part_anew(here: Path) -> None:
    make(12)
    preprocess.run(params(), "small")
    before = shard_names(layout.cache_dir("small"))
    preprocess.run(params(preprocess__map_source="embedding"), "small")
    after = shard_names(layout.cache_dir("small"))
    same = {name for name in before if after.get(name) == before[name]}
    assert same == {name for name in before if name.startswith("frames-")}
    assert preprocess.run(params(), "small")["frames_decoded"] == 0
    assert shard_names(layout.cache_dir("small")) == before


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"preprocess__jpeg_quality": 60}, "maps-"),
        ({"preprocess__store": "raw"}, "maps-"),
        ({"preprocess__frames": "informative"}, "maps-"),
        ({"benchmarks__small__data__frame_step": 4}, "frames-"),
        ({"clip__resolution": 64}, "frames-"),
        ({"clip__frames": 16}, ""),
    ],
)
def test_what_a_parameter_does_not_touch_is_kept(here: Path, change: dict[str, Any], kept: str) -> None:
    make(8)
    base = {"preprocess__store": "jpeg", "benchmarks__small__data__frame_step": 2}
    preprocess.run(params(**base), "small")
    before = shard_names(layout.cache_dir("small"))
    preprocess.run(params(**(base | change)), "small")
    after = shard_names(layout.cache_dir("small"))
    assert {name for name in before if after.get(name) == before[name]} == {n for n in before if n.startswith(kept)}


def test_only_slots_that_frame_selection_can_pick_are_stored(here: Path) -> None:
    make(4)
    settings = params(preprocess__frames="informative", benchmarks__small__data__frame_step=2)
    preprocess.run(settings, "small")
    cache = Cache.open(layout.cache_dir("small"))
    assert cache.grid == 2
    rule = ClipRule(4, "cached", oversample=1.5, keep_ratio=0.3)
    clips = ClipDataset([Member(cache, np.arange(4), Step(2))], rule)
    rows = np.arange(4)
    picked = np.concatenate([clips.frame_indices(rows, 0, epoch, rows).ravel() for epoch in range(60)])
    # Every stored frame is picked sooner or later, and no other one.
    assert set(picked.tolist()) == set(range(0, 20, 2))


def test_a_models_tubelet_embedding_makes_the_maps(here: Path) -> None:
    make(2)
    model: Any = timm.create_model("everest_pretrain_tiny_patch16_224").eval()
    save_model(model, here / "model", {})
    settings = params(preprocess__map_source="embedding", preprocess__map_weights="model")
    preprocess.run(settings, "small")
    cache = Cache.open(layout.cache_dir("small"))
    # Against the model itself, on the frames resized as the maps resize them.
    pictures = [np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.BILINEAR)) for f in decoded("v000")]
    clip = normalise(torch.from_numpy(np.stack(pictures))[None])
    expected = slot_distances(embed_slots(model, clip))[0]
    maps = cache.maps(0)
    assert maps is not None
    assert np.allclose(maps[2:20:2].astype(np.float32), expected[1:].numpy(), rtol=2e-3, atol=2e-3)
    # Other weights are other maps; no weights are refused before anything is decoded.
    before = shard_names(layout.cache_dir("small"))
    with torch.no_grad():
        model.encoder.patch_embed.proj.weight.mul_(2)
    save_model(model, here / "model", {})
    preprocess.run(settings, "small")
    changed = {name for name in shard_names(layout.cache_dir("small")) if name not in before}
    assert {name.split("-")[0] for name in changed} == {"maps"}
    with pytest.raises(InputError, match="map_weights"):
        preprocess.run(params(preprocess__map_source="embedding", preprocess__map_weights="absent"), "small")


@pytest.mark.usefixtures("small_units")
def test_an_interrupted_build_continues_and_leaves_nothing_half_made(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(12)
    whole = params()
    preprocess.run(whole, "small")
    expected = {path.name: path.read_bytes() for path in layout.cache_dir("small").glob("*.*")}
    shutil.rmtree("data/cache")
    shutil.rmtree(".work")
    real, calls = cache_write.ShardWriter.add, 0

    def dies(self: Any, *rows: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return real(self, *rows)

    monkeypatch.setattr(cache_write.ShardWriter, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        preprocess.run(whole, "small")
    assert not layout.cache_dir("small").exists()
    assert not list(store_dir("small").glob(".*.part"))
    monkeypatch.setattr(cache_write.ShardWriter, "add", real)
    metrics = preprocess.run(whole, "small")
    assert 0 < metrics["frames_decoded"] < 240
    assert {path.name: path.read_bytes() for path in layout.cache_dir("small").glob("*.*")} == expected


def test_a_full_disk_stops_cleanly_and_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(2)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_write._HashingFile, "write", full)
    with pytest.raises(EverestError, match=r"disk is full.*run the same command again"):
        preprocess.run(params(), "small")
    assert not list(store_dir("small").glob("*"))
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert preprocess.run(params(), "small")["videos"] == 2


def test_a_truncated_or_foreign_cache_is_refused_with_the_cure(here: Path) -> None:
    make(2)
    preprocess.run(params(), "small")
    folder = layout.cache_dir("small")
    with pytest.raises(InputError, match="everest preprocess nowhere"):
        Cache.open("data/cache/nowhere")
    shard = next(folder.glob("frames-*"))
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content[:-100])
    with pytest.raises(InputError, match="everest cache verify small --repair"):
        Cache.open(folder)
    shard.write_bytes(content)
    Cache.open(folder)
    info = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(info | {"version": 0}))
    with pytest.raises(InputError, match=rf"version 0, expected {VERSION}.*--repair"):
        Cache.open(folder)


def test_a_video_that_does_not_decode_is_counted_and_named(here: Path) -> None:
    ids = make(4)
    (layout.raw_dir("small") / f"{ids[1]}.mp4").write_bytes(b"not a video at all")
    _rehash()
    with pytest.raises(EverestError, match=r"1 of 4 videos of small.*v001"):
        preprocess.run(params(), "small")
    metrics = preprocess.run(params(ingest__failure_budget=0.5), "small")
    assert (metrics["videos"], metrics["videos_failed"]) == (3, 1)
    assert Cache.open(layout.cache_dir("small")).ids == [ids[0], ids[2], ids[3]]


@pytest.mark.usefixtures("small_units")
def test_shards_keep_their_bound_and_two_processes_write_the_same_bytes(here: Path) -> None:
    make(10)
    settings = params()
    units = units_of(settings, "small")
    assert len(units) > 2
    one, two = here / "one", here / "two"
    assert build(units, one, 1) == build(units, two, 2) == 200
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    publish("small", units, one, here / "final")
    assert len(Cache.open(here / "final")) == 10


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("damage", ["truncate", "remove", "tear the record"])
def test_the_next_start_makes_a_broken_shard_anew_and_no_other(here: Path, damage: str) -> None:
    make(12)
    units = preprocess.run(params(), "small")["shards"]
    frames = Cache.open(layout.cache_dir("small")).frames(0, range(20))
    shard = sorted(store_dir("small").glob("frames-*.arrow"))[0]
    if damage == "truncate":  # the cache shares these bytes
        with shard.open("r+b") as file:
            file.truncate(1000)
    elif damage == "remove":
        shard.unlink()
    else:
        shard.with_name(shard.name.replace("-0.arrow", ".json")).write_text('{"sha')
    again = preprocess.run(params(), "small")
    assert units > 2
    assert again["units_reused"] == units - 1
    assert cache_admin.verify("small")["caches"]["small"]["damaged"] == []
    assert np.array_equal(Cache.open(layout.cache_dir("small")).frames(0, range(20)), frames)


@pytest.mark.usefixtures("small_units")
def test_renamed_videos_make_their_units_anew_and_no_other(here: Path) -> None:
    import pyarrow as pa

    ids = make(12)
    units = preprocess.run(params(), "small")["shards"]
    frames = Cache.open(layout.cache_dir("small")).frames(0, range(20))
    path = layout.manifest_dir("small") / "manifest.parquet"
    table = manifest.load(path)
    place = table.column_names.index("video_id")
    names = ["Jumping/a", *ids[1:]]
    manifest.save(table.set_column(place, "video_id", pa.array(names)), path)
    again = preprocess.run(params(), "small")
    assert units > 2
    assert (again["videos"], again["units_reused"]) == (12, units - 1)
    cache = Cache.open(layout.cache_dir("small"))
    assert cache.ids == names
    assert np.array_equal(cache.frames(0, range(20)), frames)


def test_videos_that_are_away_for_a_while_cost_no_cache_and_are_tried_again(here: Path) -> None:
    make(4)
    preprocess.run(params(), "small")
    before = shard_names(layout.cache_dir("small"))
    raw = layout.raw_dir("small")
    raw.rename(here / "not mounted")
    changed = params(preprocess__store="jpeg")
    for _ in range(2):
        with pytest.raises(EverestError, match=r"4 of 4 videos of small cannot be read.*missing.*Cure: put them back"):
            preprocess.run(changed, "small")
        assert shard_names(layout.cache_dir("small")) == before
        assert len(Cache.open(layout.cache_dir("small"))) == 4
    next(layout.cache_dir("small").glob("frames-*")).unlink()
    with pytest.raises(EverestError, match="4 of 4 videos of small cannot be read"):
        cache_admin.verify("small", repair=True, params=changed)
    (here / "not mounted").rename(raw)
    assert preprocess.run(changed, "small")["videos"] == 4


def test_a_video_that_was_away_within_the_budget_comes_back_and_both_are_counted(here: Path) -> None:
    ids = make(4)
    settings = params(ingest__failure_budget=0.5)
    away = layout.raw_dir("small") / f"{ids[1]}.mp4"
    (layout.raw_dir("small") / f"{ids[2]}.mp4").write_bytes(b"not a video at all")
    _rehash()
    away.rename(here / "away.mp4")

    def counts() -> tuple[float, float]:
        numbers = json.loads(layout.metrics_file("preprocess", "small").read_text())
        return numbers[names.DATA_VIDEOS_OK], numbers[names.DATA_VIDEOS_TOTAL]

    preprocess.run(settings, "small")
    assert counts() == (2, 4)
    (here / "away.mp4").rename(away)
    preprocess.run(settings, "small")
    assert counts() == (3, 4)
    assert Cache.open(layout.cache_dir("small")).ids == [ids[0], ids[1], ids[3]]
    assert preprocess.run(settings, "small")["frames_decoded"] == 0  # a video that is broken is not tried again


def test_a_video_replaced_after_the_download_is_never_taken_for_the_old_one_and_comes_back_with_it(here: Path) -> None:
    ids = make(3)
    settings = params(ingest__failure_budget=0.5)
    place = layout.raw_dir("small") / f"{ids[1]}.mp4"
    truth = decoded(place.stem)
    place.rename(here / "old.mp4")
    write_video(place, np.full((20, 64, 64, 3), 200, np.uint8), fps=12)
    assert preprocess.run(settings, "small")["videos_failed"] == 1
    assert Cache.open(layout.cache_dir("small")).ids == [ids[0], ids[2]]
    (failed,) = {(row["video_id"], row["reason"].partition(":")[0]) for row in _failures()}
    assert failed == (ids[1], "wrong_hash")
    files = usable_videos(layout.manifest_dir("small") / "manifest.parquet", layout.raw_dir("small"))
    with pytest.raises(ClipError, match=r"v001: wrong_hash: .*v001\.mp4 is not the file that was downloaded"):
        VideoSource(files, 64).frames(1, [0, 8])
    (here / "old.mp4").rename(place)
    assert preprocess.run(settings, "small")["videos"] == 3
    assert np.array_equal(Cache.open(layout.cache_dir("small")).frames(1, range(20)), truth)


def test_work_may_lie_on_another_file_system_than_the_data(here: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == here.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        Path(".work").symlink_to(elsewhere)
        make(4)
        for store in ("raw", "jpeg"):
            preprocess.run(params(preprocess__store=store), "small")
            assert len(Cache.open(layout.cache_dir("small"))) == 4
    assert [path.name for path in layout.cache_dir("small").parent.iterdir()] == ["small"]


def test_workers_end_with_a_killed_parent(here: Path) -> None:
    make(40)
    code = (
        "import small_benchmark as small\n"
        "from pipeline.data.cache import build\nfrom pipeline.stages import preprocess\n"
        "build.MIN_UNIT = 40_000  # several units, as for one benchmark of usual size\n"
        "if __name__ == '__main__': preprocess.run(small.params(preprocess__workers=2), 'small')"
    )
    Path("start.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "kit")])}
    parent = subprocess.Popen([sys.executable, "start.py"], env=environment)
    deadline = time.monotonic() + 60
    while not list(store_dir("small").glob("*.arrow")) and not list(store_dir("small").glob(".*.part")):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = [process for process in psutil.Process(parent.pid).children() if "spawn_main" in str(process.cmdline())]
    parent.kill()
    parent.wait()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_units")
def test_a_dask_cluster_writes_the_same_cache(here: Path) -> None:
    from distributed import LocalCluster

    make(6)
    preprocess.run(params(), "small")
    expected = {path.name: path.read_bytes() for path in layout.cache_dir("small").glob("*.*")}
    shutil.rmtree("data/cache")
    shutil.rmtree(".work")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        preprocess.run(params(compute__cluster=cluster.scheduler_address), "small")
    assert {path.name: path.read_bytes() for path in layout.cache_dir("small").glob("*.*")} == expected


def test_a_cluster_that_does_not_answer_is_named(here: Path) -> None:
    make(1)
    with pytest.raises(InputError, match=r"compute\.cluster = 'nowhere://x': no scheduler answers"):
        preprocess.run(params(compute__cluster="nowhere://x"), "small")


def test_a_writer_rolls_over_at_its_bound(tmp_path: Path) -> None:
    writer = cache_write.ShardWriter(tmp_path, "frames-x", "frame", bound=3000)
    places = [writer.add([bytes(900)], [0]) for _ in range(5)]
    shards = writer.finish()
    assert len(shards) == 3
    assert places[0] == ("frames-x-0.arrow", 0)
    assert places[4][0] == "frames-x-2.arrow"
    assert all(shard["bytes"] <= 3000 for shard in shards)


def test_a_cache_crosses_a_process_border(here: Path) -> None:
    make(2)
    preprocess.run(params(), "small")
    cache = Cache.open(layout.cache_dir("small"))
    first = cache.frames(0, [1])
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).frames(0, [1]), first)


def test_the_corpus_is_the_training_split_without_doubles_and_without_what_is_tested(here: Path) -> None:
    import pyarrow.parquet as pq

    ids = make(8, splits=("train", "train", "train", "test"))
    raw = layout.raw_dir("small")
    shutil.copy(raw / f"{ids[0]}.mp4", raw / f"{ids[1]}.mp4")
    shutil.copy(raw / f"{ids[3]}.mp4", raw / f"{ids[4]}.mp4")
    _rehash()
    settings: Params = params()
    preprocess.run(settings, "small")
    assert corpus.run(settings, "small") == {"videos": 4, "duplicates_left_out": 2}
    table = pq.read_table(layout.corpus_file("small"))
    assert table["video_id"].to_pylist() == [ids[0], ids[2], ids[5], ids[6]]


def _failures() -> list[dict[str, str]]:
    records = [json.loads(path.read_text()) for path in store_dir("small").glob("*.json")]
    return [failed for record in records for failed in record["failed"]]


def _rehash() -> None:
    import pyarrow as pa

    from pipeline.system.files import sha256_of

    path = layout.manifest_dir("small") / "manifest.parquet"
    table = manifest.load(path)
    sums = [sha256_of(layout.raw_dir("small") / name) for name in table["path"].to_pylist()]
    place = table.column_names.index("sha256")
    manifest.save(table.set_column(place, "sha256", pa.array(sums)), path)
