"""Efficiency is measured: counters, peaks, and the formula that joins them."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from pipeline.efficiency import meters as efficiency
from pipeline.efficiency.meters import DEVICES, EnergyMeter, known_device, matmul_peak, mfu, peak_memory_gib

CPU = torch.device("cpu")


def test_a_device_is_known_by_the_name_that_cuda_reports() -> None:
    assert known_device("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert known_device("NVIDIA A100-SXM4-80GB") is DEVICES["a100-80"]
    assert known_device("NVIDIA RTX A6000") is DEVICES["a6000"]
    assert known_device("Abacus 1") is None
    for other in ("NVIDIA GH200 480GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"):
        assert known_device(other) is None, "its memory or peak is not the entry's"
    assert known_device("NVIDIA A100 80GB PCIe") is DEVICES["a100-80"]
    assert all(device.source for device in DEVICES.values())


def test_utilisation_counts_three_forwards_and_two_operations_a_multiply_add() -> None:
    # 100 clips/s of 1 G multiply-adds: 6e11 FLOP/s of training on a device of 1e12.
    assert mfu(1.0, 100.0, 1e12) == pytest.approx(0.6)
    assert mfu(1.0, 100.0, 1e12, passes=1.0) == pytest.approx(0.2)


def test_the_measured_peak_of_a_cpu_is_plausible() -> None:
    assert 1e8 < matmul_peak(0.05, 256) < 1e14
    assert efficiency.peak_flops(CPU, "fp32") is not None


def test_half_precision_has_a_peak_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(efficiency, "matmul_peak", lambda precision: asked.append(precision) or 1.0)
    for precision in ("fp32", "bf16"):
        efficiency.peak_flops(CPU, precision)
    assert asked == ["fp32", "bf16"]
    assert matmul_peak(0.02, 64, "bf16") > 1e7


def test_peak_memory_sees_what_was_held_and_is_let_go() -> None:
    """In a fork: its peak begins with what it holds, that of this process was perhaps higher once."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        before, after = pool.submit(_peaks, 256 * 2**20).result()
    assert after - before == pytest.approx(0.25, abs=0.03)


def _peaks(size: int) -> tuple[float, float]:
    before = peak_memory_gib(CPU)
    held = b"x" * size
    del held
    return before, peak_memory_gib(CPU)


def test_energy_is_the_difference_of_counters_and_survives_a_wrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("10000000000")
    (package / "energy_uj").write_text("9000000000")
    monkeypatch.setattr(efficiency, "rapl_packages", lambda: [package])
    meter = EnergyMeter(CPU)
    (package / "energy_uj").write_text("2600000000")
    assert meter.read() == pytest.approx(1.0)


def test_without_a_counter_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "rapl_packages", list)
    assert EnergyMeter(CPU).read() is None


def test_packages_are_counted_once_without_their_parts_and_the_whole_board(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "psys",
        "intel-rapl:10": "package-10",
    }
    for zone, name in zones.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
    assert [zone.name for zone in efficiency.rapl_packages(tmp_path)] == ["intel-rapl:0", "intel-rapl:10"]
