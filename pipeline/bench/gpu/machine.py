"""Where the figures are from: device, driver, versions."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

from pipeline.errors import InputError

PACKAGES = ("torch", "torchvision", "triton", "timm", "transformers", "numpy")


def machine(device: str) -> dict[str, Any]:
    """What there is to say of this machine.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    import torch

    about: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": f"CPU {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            about[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            about[package] = "not installed"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise InputError("--device cuda, but torch sees no GPU. Cure: --device cpu rehearses the whole.")
        properties = torch.cuda.get_device_properties(0)
        about["device"] = properties.name
        about["memory_gib"] = round(properties.total_memory / 2**30, 1)
        about["multiprocessors"] = properties.multi_processor_count
        about["cuda"] = torch.version.cuda
        about["driver"] = _driver()
    return about


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "unknown"
