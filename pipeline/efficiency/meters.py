"""What a run cost, measured: peak memory, throughput, share of the device's peak (MFU), energy.

The meters read counters at the beginning and the end; nothing runs in between, so they cost a step nothing.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device's dense peaks and memory, as its maker states them.

    Attributes:
        half: [FLOP/s] bf16 and fp16 tensor cores with fp32 accumulation, without sparsity.
        single: [FLOP/s] fp32 products on tensor cores (TF32), which training in fp32 uses here.
        memory_gib, bandwidth: [GiB], [byte/s] of device memory.
        link: [byte/s] per direction between devices of one machine.
        watts: [W] of a board at most, as the maker states it; None where unknown.
    """

    name: str
    half: float
    single: float
    memory_gib: float
    bandwidth: float
    link: float
    source: str
    watts: float | None = None


#: By the key that `everest plan --gpu` takes.
DEVICES = {
    "h100": Device("H100 SXM", 989.4e12, 494.7e12, 80, 3.35e12, 450e9, "NVIDIA H100 data sheet, dense", 700),
    "h200": Device("H200 SXM", 989.4e12, 494.7e12, 141, 4.8e12, 450e9, "NVIDIA H200 data sheet, dense", 700),
    "a100-80": Device("A100 80GB SXM", 312e12, 156e12, 80, 2.039e12, 300e9, "NVIDIA A100 data sheet, dense", 400),
    "a100-40": Device("A100 40GB SXM", 312e12, 156e12, 40, 1.555e12, 300e9, "NVIDIA A100 data sheet, dense", 400),
    "a6000": Device("RTX A6000", 154.8e12, 77.4e12, 48, 0.768e12, 28e9, "NVIDIA Ampere GA102 white paper", 300),
    "4090": Device("RTX 4090", 165.2e12, 82.6e12, 24, 1.008e12, 16e9, "NVIDIA Ada GPU architecture white paper", 450),
}
#: Names that CUDA reports -> key above, the more special first.
_REPORTED = (
    ("H200", "h200"), ("H100", "h100"), ("A100-SXM4-80GB", "a100-80"), ("A100 80GB", "a100-80"),
    ("A100", "a100-40"), ("RTX A6000", "a6000"), ("RTX 4090", "4090"),
)  # fmt: skip


#: Parts of the names of cards whose memory or peak is another than that of the entry they resemble.
_OTHERS = ("GH200", "Laptop", "H100 PCIe", "H100 NVL", "H200 NVL", "RTX 4090 D")


def known_device(reported: str) -> Device | None:
    """The table's entry for a name that CUDA reports, or None."""
    if any(part in reported for part in _OTHERS):
        return None
    return next((DEVICES[key] for part, key in _REPORTED if part in reported), None)


def device_name(device: torch.device) -> str:
    """`cpu`, or the name that CUDA reports: what runs are compared by."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def matmul_peak(seconds: float = 0.2, size: int = 512, precision: str = "fp32") -> float:
    """[FLOP/s] of square matrix products on this CPU with the threads that torch has now: the best of many.

    Measured in bf16 for both half precisions.
    """
    import torch

    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def peak_flops(device: torch.device, precision: str) -> float | None:
    """[FLOP/s] of one device: from the table for a GPU, measured for a CPU; None for an unknown GPU."""
    if device.type == "cpu":
        return matmul_peak(precision=precision)
    import torch

    entry = known_device(torch.cuda.get_device_name(device))
    if entry is None:
        return None
    return entry.single if precision == "fp32" else entry.half


def mfu(gmacs_per_clip: float, clips_per_second: float, peak: float, passes: float = 3.0) -> float:
    """Model FLOP utilisation: useful FLOP/s over the peak of all devices together.

    Args:
        gmacs_per_clip: [G multiply-adds] of one forward of one clip; 2 FLOP each.
        peak: [FLOP/s] summed over devices.
        passes: forward-equivalents a training step takes: 3 (backward costs 2), 1 for a frozen encoder.
    """
    return passes * 2e9 * gmacs_per_clip * clips_per_second / peak


def peak_memory_gib(device: torch.device) -> float:
    """[GiB] the most that this process held: allocated device memory, or resident memory on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def memory_share(device: torch.device) -> float:
    """The share of memory that is taken: of a GPU what all processes hold, on a CPU of the machine's own."""
    if device.type == "cuda":
        import torch

        free, whole = torch.cuda.mem_get_info(device)
        return 1 - free / whole
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return 1 - int(sizes["MemAvailable"].split()[0]) / int(sizes["MemTotal"].split()[0])


#: (joules, joules at which the counter wraps) of every counter.
Joules: TypeAlias = "list[tuple[float, float]]"


class EnergyMeter:
    """[Wh] since its creation, of the GPUs of this machine (NVML) or its CPU packages (RAPL).

    `read()` is None where the machine has no counter that this user may read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._handle = _nvml_handle(device) if device.type == "cuda" else None
        self._packages = rapl_packages() if device.type == "cpu" else []
        self._began = self._joules()

    def read(self) -> float | None:
        now = self._joules()
        if self._began is None or now is None:
            return None
        return joules_between(self._began, now) / 3600

    def taken(self) -> float | None:
        """As :meth:`read`, and counts anew from now on."""
        energy, self._began = self.read(), self._joules()
        return energy

    def _joules(self) -> Joules | None:
        if self._handle is not None:
            import pynvml

            return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3, 0.0)]
        return rapl_joules(self._packages)


def _nvml_handle(device: torch.device) -> object:
    """NVML's handle of a GPU, which is handed back to NVML as it is; None where it counts no energy."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return handle


def joules_between(before: Joules, after: Joules) -> float:
    """What counters went up by, all together, each having wrapped once at most."""
    pairs = zip(before, after, strict=True)
    return sum(now - was if now >= was else now + limit - was for (was, limit), (now, _) in pairs)


def rapl_joules(packages: Sequence[Path]) -> Joules | None:
    """The counters of CPU packages; None where none may be read."""
    try:
        counters = [
            (int((p / "energy_uj").read_text()) / 1e6, int((p / "max_energy_range_uj").read_text()) / 1e6)
            for p in packages
        ]
    except OSError:
        return None
    return counters or None


def rapl_packages(powercap: Path = Path("/sys/class/powercap")) -> list[Path]:
    """The zones of CPU packages, any number of them; not those within one, nor the whole board's (psys)."""
    zones = [zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1]
    return sorted(zone for zone in zones if (zone / "name").read_text(encoding="ascii").startswith("package"))
