"""Bytes of a cache that changed on the disk: told where they are read, by every path, and never used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_benchmark import make, params

from pipeline import layout
from pipeline.data.cache import read as caches
from pipeline.data.cache.read import Cache
from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member, pretraining_clips
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.frame_step import Step
from pipeline.errors import DamagedError, InputError
from pipeline.evaluation.inference import infer
from pipeline.stages import corpus, preprocess
from pipeline.system.sealed import write_table

FOLDER = layout.cache_dir("small")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    return tmp_path


def prepared(store: str) -> None:
    make(8)
    preprocess.run(params(preprocess__store=store), "small")


def change(path: Path, place: int, bits: int = 1) -> None:
    """Invert bits of one byte in place, with the time stamp kept."""
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bits]))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


class Constant(torch.nn.Module):
    """A classifier of two classes."""

    def forward(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(clips_BCTHW), 2)


def place_of(cache: Cache, row: int, frame: int) -> tuple[Path, int]:
    """The shard of a stored frame, and a byte in the middle of the frame there."""
    shard = cache.shard(row)
    stored = cache._frame_rows(row).row(frame).tobytes()
    return shard, shard.read_bytes().index(stored) + len(stored) // 2


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_flipped_byte_of_a_frame_names_shard_row_video_and_cure(store: str) -> None:
    prepared(store)
    cache = Cache.open(FOLDER)
    shard, place = place_of(cache, 5, 7)
    change(shard, place)
    cache = Cache.open(FOLDER)
    cache.frames(5, [6, 8])
    message = rf"{shard.name}: frame 7 \(row 7\) .*of video {cache.ids[5]}.*Cure: `everest cache verify small --repair`"
    with pytest.raises(DamagedError, match=message):
        cache.frames(5, [6, 7])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_training_and_evaluation_stop_at_a_damaged_frame_instead_of_taking_another_video(store: str) -> None:
    prepared(store)
    shard, place = place_of(Cache.open(FOLDER), 2, 10)
    change(shard, place)
    cache = Cache.open(FOLDER)
    dataset = ClipDataset([Member(cache, np.arange(8), Step(1))], ClipRule(8))
    for workers in (0, 2):  # the second time, too: a frame that was found damaged is not taken for checked
        loader = ClipLoader(dataset, seed=0, global_batch=8, workers=workers, replace=True)
        with pytest.raises(DamagedError, match=cache.ids[2]):
            [list(loader.epoch(epoch)) for epoch in range(30)]
        loader.close()

    def read(number: int) -> np.ndarray:
        return cache.frames(number, range(20))[None]

    with pytest.raises(DamagedError, match=cache.ids[2]):
        infer(Constant(), read, 8, resolution=32, batch=1, views=1, device=torch.device("cpu"))


@pytest.mark.usefixtures("here")
def test_distance_maps_that_changed_are_refused_by_frame_selection() -> None:
    prepared("raw")
    shard = next(FOLDER.glob("maps-*"))
    stored = Cache.open(FOLDER).maps(3)
    assert stored is not None
    change(shard, shard.read_bytes().index(stored.tobytes()) + 9)
    cache = Cache.open(FOLDER)
    dataset = ClipDataset([Member(cache, np.arange(8), Step(1))], ClipRule(8, selection="cached"))
    with pytest.raises(DamagedError, match=rf"{shard.name}: the distance maps .*{cache.ids[3]}.*--repair"):
        dataset.frame_indices(np.arange(8), 0, 0, np.arange(8))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_whatever_byte_of_a_shard_changes_no_other_pixel_or_map_is_handed_out(store: str) -> None:
    prepared(store)
    good = Cache.open(FOLDER)
    expected = [(good.frames(row, range(20)).copy(), np.array(good.maps(row))) for row in range(8)]
    del good
    rng = np.random.default_rng(0)
    for shard in sorted(FOLDER.glob("*.arrow")):
        size, refused = shard.stat().st_size, 0
        # The end holds the footer: where every batch lies, and the schema.
        for place in [*rng.integers(0, size, 20).tolist(), *range(size - 700, size, 17), *range(0, 400, 31)]:
            bits = 1 << int(rng.integers(8))
            change(shard, place, bits)
            try:
                cache = Cache.open(FOLDER)
                for row, (frames, maps) in enumerate(expected):
                    assert np.array_equal(cache.frames(row, range(20)), frames), (shard.name, place)
                    assert np.array_equal(np.array(cache.maps(row)), maps), (shard.name, place)
            except DamagedError as error:
                refused += "--repair" in str(error)
            change(shard, place, bits)
        assert refused > 12, shard.name


@pytest.mark.usefixtures("here")
def test_a_row_of_another_video_is_refused_although_it_is_whole() -> None:
    prepared("raw")
    cache = Cache.open(FOLDER)
    cache.columns.batch[[1, 2]] = cache.columns.batch[[2, 1]]
    with pytest.raises(DamagedError, match=cache.ids[1]):
        cache.frames(1, [0])


@pytest.mark.usefixtures("here")
def test_a_raw_frame_that_changes_while_it_is_mapped_is_told_within_its_next_reads() -> None:
    prepared("raw")
    cache = Cache.open(FOLDER)
    cache.frames(4, [3])
    change(*place_of(cache, 4, 3))
    with pytest.raises(DamagedError, match="frame 3"):
        [cache.frames(4, [3]) for _ in range(caches.RECHECK)]


@pytest.mark.usefixtures("here")
def test_the_index_and_the_description_of_a_cache_are_compared_too() -> None:
    prepared("raw")
    for name in ("index.parquet", "cache.json"):
        content = (FOLDER / name).read_bytes()
        for place in range(0, len(content), max(1, len(content) // 60)):
            change(FOLDER / name, place)
            with pytest.raises(InputError, match=r"--repair"):
                Cache.open(FOLDER)
            change(FOLDER / name, place)
    Cache.open(FOLDER)


@pytest.mark.usefixtures("here")
def test_a_damaged_corpus_is_refused_with_its_cure() -> None:
    prepared("raw")
    settings = params()
    corpus.run(settings, "small")
    pretraining_clips(settings)
    change(layout.corpus_file("small"), 40)
    with pytest.raises(DamagedError, match=r"small\.parquet is damaged.*Cure: `everest corpus small`"):
        pretraining_clips(settings)


def test_rows_that_are_read_in_one_piece_lie_where_they_were_written_whatever_an_offset_says() -> None:
    data, checksums = np.arange(24, dtype=np.uint8), np.zeros(3, np.uint64)
    for offsets in ([0, 8, 16, 24], [5, 8, 16, 24], [0, 99, -7, 24]):
        rows = caches.Rows(data, np.asarray(offsets, dtype=np.int64), checksums).alike((2, 4))
        assert rows is not None
        assert np.array_equal(rows, data.reshape(3, 2, 4))
    assert caches.Rows(data[:-1], np.asarray([0, 8, 16, 24]), checksums).alike((2, 4)) is None


def test_a_table_of_another_program_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from pipeline.system.sealed import read_table

    table = pa.table({"a": [1, 2]})
    pq.write_table(table, tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no table with a checksum"):
        read_table(tmp_path / "other.parquet", "Cure: make it again.")
    write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    assert read_table(tmp_path / "empty.parquet", "").num_rows == 0
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0
