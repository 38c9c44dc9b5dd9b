"""Which data and which code a report is about."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from pipeline import layout
from pipeline.tracking.context import code_tags, dvc_hashes

PACKAGES = ("torch", "timm", "numpy", "decord", "av", "dvc", "mlflow", "prefect")


def versions() -> dict[str, str]:
    """Commit, interpreter and the packages that decide a result."""
    found = dict(code_tags())
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def data_versions(benchmarks: list[str]) -> list[dict[str, Any]]:
    """By benchmark: videos of each split, quarantined ones with their reasons, and content hashes."""
    from pipeline.data import manifest

    hashes = dvc_hashes()
    rows = []
    for benchmark in benchmarks:
        path = layout.manifest_dir(benchmark) / "manifest.parquet"
        row: dict[str, Any] = {"benchmark": benchmark}
        if path.exists():
            table = manifest.load(path, ["split", "status", "reason"], status=None).to_pylist()
            for split in ("train", "val", "test"):
                row[split] = sum(r["split"] == split and r["status"] == "ok" for r in table)
            bad = [r["reason"] for r in table if r["status"] != "ok"]
            row["quarantined"] = len(bad)
            row["reasons"] = {reason: bad.count(reason) for reason in sorted(set(bad))}
        row["manifest_hash"] = hashes.get(str(layout.manifest_dir(benchmark)), "")
        row["cache_hash"] = hashes.get(str(layout.cache_dir(benchmark)), "")
        rows.append(row)
    return rows
