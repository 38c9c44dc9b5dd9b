"""The process of one part: `python -m pipeline.bench.gpu.part NAME OUT DEVICE SECONDS`."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path


def main() -> int:
    """The exit code."""
    until = time.monotonic() + float(sys.argv[4])  # importing torch counts
    import torch

    from pipeline.bench.gpu.checks import BROKEN, run_all
    from pipeline.bench.gpu.setting import setting_of

    name, out, device = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_float32_matmul_precision("high")  # as a training's ranks do
    setting = setting_of(device, out, until)
    part = importlib.import_module(f"pipeline.bench.gpu.{name}")
    return 0 if run_all(name, part.checks(setting), setting) else BROKEN


if __name__ == "__main__":
    raise SystemExit(main())
