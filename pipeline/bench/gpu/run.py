"""The parts in the order of their worth, each in a process of its own that ends at its deadline."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from pipeline.bench.gpu.checks import BROKEN
from pipeline.bench.gpu.rows import Row, append, page, read
from pipeline.bench.harness import Figures
from pipeline.errors import InputError
from pipeline.system.files import make_folder, write_text

#: Shares of the time that is left when a part begins; what one leaves goes to those after it.
SHARES = {"right": 0.24, "fast": 0.40, "planner": 0.05, "fed": 0.12, "learns": 0.19}
PARTS = tuple(SHARES)
#: Whose versions belong to the results.
PACKAGES = ("torch", "torchvision", "triton", "timm", "transformers", "numpy")
#: [s] after its deadline in which a part may still end by itself.
GRACE = 3.0


class Result(TypedDict):
    """What a run tells: a line, failed rows by part and name, where its page lies, and all rows."""

    summary: str
    failed: list[str]
    page: str
    rows: list[dict[str, object]]


def command(minutes: float, device: str, only: Sequence[str] | None, out: Path) -> Result:
    """Run the parts and leave results.jsonl, results.json and gpu.md in `out`.

    Raises:
        InputError: no time, an unknown part, a GPU that is not there, or results of another run in `out`.
    """
    parts = [part for part in PARTS if only is None or part in only]
    unknown = set(only or ()) - set(PARTS)
    if unknown or not parts:
        raise InputError(f"--only {sorted(unknown)}: expected some of {', '.join(PARTS)}. Cure: choose among them.")
    if device not in ("cuda", "cpu"):
        raise InputError(f"--device {device}, expected cuda or cpu. Cure: cpu rehearses the whole.")
    if not 0.1 <= minutes <= 600:
        raise InputError(f"--minutes {minutes:g}, expected 0.1 to 600. Cure: 8.")
    results = out / "results.jsonl"
    if results.exists():
        raise InputError(f"{results} exists: results of another run. Cure: another --out.")
    about = machine(device)
    make_folder(out)
    began = time.monotonic()
    chosen = "".join(f" --only {part}" for part in parts) if only else ""
    about["command"] = f"everest bench gpu --minutes {minutes:g} --device {device}{chosen} --out {out.name}"
    end = began + 60 * minutes
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        weight = sum(SHARES[one] for one in parts[number:])
        seconds = left * SHARES[part] / weight
        if seconds < 5:
            append(results, Row(part, "the whole part", "left out", error=f"{left:.0f} s left"))
        else:
            _part(part, out, device, seconds)
        about["seconds"] = round(time.monotonic() - began, 1)
        _write(out, about, read(results))
    shutil.rmtree(out / "work", ignore_errors=True)
    rows = read(results)
    failed = [f"{row.part}: {row.name}" for row in rows if row.status in ("failed", "begun")]
    fine = sum(row.status == "ok" for row in rows)
    left_out = sum(row.status == "left out" for row in rows)
    return {
        "summary": f"{fine} rows, {len(failed)} failed, {left_out} left out, {about['seconds']} s",
        "failed": failed,
        "page": str(out / "gpu.md"),
        "rows": [asdict(row) for row in rows],
    }


#: What runs a part; its name, folder, device and seconds follow.
PROGRAM = (sys.executable, "-m", "pipeline.bench.gpu.part")


def _part(part: str, out: Path, device: str, seconds: float) -> None:
    """Run a part until its deadline, in a new process again where the device was lost."""
    until = time.monotonic() + seconds
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if part == "right":  # deterministic products need it; it takes cuBLAS some of its speed
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    project = str(Path(__file__).resolve().parents[3])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    results = out / "results.jsonl"
    while (left := until - time.monotonic()) > 2:
        rows_before = len(read(results))
        with (out / f"{part}.log").open("a") as log:
            process = subprocess.Popen(
                [*PROGRAM, part, str(out), device, str(left)],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
            code = _ended(process, left + GRACE)
        if code is None or code == 0:
            return
        if code != BROKEN and len(read(results)) == rows_before:  # it does not even begin
            lines = (out / f"{part}.log").read_text(errors="replace").strip().splitlines()
            append(results, Row(part, "the process", "failed", error=f"ended with {code}: {lines[-1:]}"))
            return


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code, or None where the process was killed at its deadline, with all that it had started."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(out: Path, about: Figures, rows: list[Row]) -> None:
    document = {"machine": about, "rows": [asdict(row) for row in rows]}
    for name, text in (("results.json", json.dumps(document, indent=1, default=str)), ("gpu.md", page(about, rows))):
        write_text(out / name, text)


def machine(device: str) -> Figures:
    """What there is to say of this machine.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    import torch

    about: Figures = {
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
