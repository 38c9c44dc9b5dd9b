"""The data benchmarks run and report what they promise; their figures are in docs/benchmarks.md."""

from __future__ import annotations

import pytest

from pipeline.bench import clips, ingest, loader, preprocess


@pytest.fixture
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "VIDEOS", 2)
    monkeypatch.setattr(clips, "LENGTH", 64)


@pytest.mark.slow
@pytest.mark.usefixtures("few_clips")
def test_the_loader_benchmark_reports_all_ratios() -> None:
    result = loader.command(rounds=1, samples=64, workers=())
    assert set(result["ratio"]["cpu_augment"]) == {"video", "jpeg", "raw"}
    assert set(result["ratio"]["device_augment"]) == {"jpeg", "raw"}
    # Even one short round on a busy machine shows the order.
    assert result["ratio"]["device_augment"]["raw"] > result["ratio"]["device_augment"]["jpeg"] > 2
    assert result["bytes_per_clip"]["raw"] == 16 * 256 * 340 * 3
    assert result["memory"]["samples"] >= 64


@pytest.mark.slow
@pytest.mark.usefixtures("few_clips")
def test_the_preprocess_benchmark_reports_its_share_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "SCALING_FRAMES", 256)
    result = preprocess.command(rounds=1)
    assert set(result["ways"]) == {"jpeg every 4", "raw every 4", "jpeg every 1", "raw every 1"}
    assert all(0.1 < way["share_of_decoding"] < 3 for way in result["ways"].values())
    assert result["two_processes"]["speed_up"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_clips")
def test_the_ingest_benchmark_reports_what_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "UNCHANGED", 200)
    monkeypatch.setattr(ingest, "ROWS", 2000)
    result = ingest.command(videos=6, rounds=1)
    assert set(ingest.GOALS) <= set(result)
    assert all(value > 0 for value in result["processor_seconds"].values())
    assert result["two_processes"] > 0
    assert result["clips"]["videos"] == 6


def test_the_generated_clips_are_the_same_every_time() -> None:
    first = clips.scene(1)
    assert first.shape == (150, 256, 340, 3)
    assert (first == clips.scene(1)).all()
    assert first[0].std() > 20
