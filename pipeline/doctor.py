"""`everest doctor`: what this machine has, what it lacks, and the cure for each lack."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline.errors import DamagedError, EverestError, parted
from pipeline.layout import cache_dir, data_root, manifest_dir, output_dir
from pipeline.params import declared, load_params, records
from pipeline.system import git

Status = Literal["ok", "warn", "fail"]
Check = dict[str, str]

PACKAGES = ("torch", "torchvision", "timm", "decord", "av", "prefect", "mlflow", "dvc", "pydantic", "boto3")
#: What every dependency has wheels for (tests/test_installation.py).
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
#: The demo's videos, caches and checkpoints stay far below; real benchmarks need what `everest plan` says.
MINIMUM_FREE_GIB = 5
#: Videos of a cache of which a frame is read.
LOOKED_AT = 16


def examine() -> list[Check]:
    """All checks, in the order in which their lack would be met."""
    looks: tuple[Callable[[], Check | list[Check]], ...]
    looks = (_python, _packages, _devices, _memory, _disk, _decoders, _archive_tools)
    return [check for look in (*looks, _git, _beside, _parameters, _obstacles, _data) for check in _checks_of(look)]


def _checks_of(look: Callable[[], Check | list[Check]]) -> list[Check]:
    """A look's checks, or the failed one that a package cannot be loaded which it needs."""
    try:
        found = look()
    except ImportError as error:
        return [_check(look.__name__.strip("_"), "fail", f"{error.name or 'a package'}: {error}", "make install")]
    return found if isinstance(found, list) else [found]


def _check(name: str, status: Status, found: str, cure: str = "") -> Check:
    return {"check": name, "status": status, "found": found, "cure": cure}


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] in PYTHONS:
        return _check("python", "ok", version)
    return _check("python", "fail", version, "use Python 3.11 to 3.14: rm -r .venv, then make install")


def _packages() -> list[Check]:
    checks = []
    for name in PACKAGES:
        try:
            checks.append(_check(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(_check(name, "fail", "not installed", "make install"))
    return checks


def _devices() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it loads
        return _check("devices", "fail", f"torch cannot be loaded: {error}", "make install")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return _check("devices", "ok", f"{len(names)} GPU: {', '.join(sorted(set(names)))}")
    driver = shutil.which("nvidia-smi")
    cure = "the driver is there but torch sees no GPU: compare nvidia-smi with torch.version.cuda" if driver else ""
    return _check("devices", "warn", f"no GPU, {os.cpu_count()} CPU cores", cure or "paper-size recipes need GPUs")


def _memory() -> Check:
    import psutil

    total = psutil.virtual_memory().total / 2**30
    return _check("memory", "ok" if total >= 6 else "warn", f"{total:.0f} GiB", "" if total >= 6 else "6 GiB or more")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free >= MINIMUM_FREE_GIB:
        return _check("disk", "ok", f"{free:.0f} GiB free here")
    return _check("disk", "fail", f"{free:.1f} GiB free here", f"free {MINIMUM_FREE_GIB} GiB or set EVEREST_DATA")


def _decoders() -> list[Check]:
    """Each reader decodes a clip that is written for it, rather than only importing."""
    import tempfile

    import numpy as np

    from pipeline.data.video import open_video, write_video

    checks = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        frames = np.full((8, 64, 64, 3), 128, np.uint8)
        for reader in ("decord", "pyav"):
            try:
                write_video(path, frames, fps=8)
                decoded = open_video(path, reader=reader).frames(range(8))
                checks.append(_check(f"{reader} decodes H.264", "ok", f"{len(decoded)} of 8 frames"))
            except (EverestError, ImportError, OSError, RuntimeError) as error:
                checks.append(_check(f"{reader} decodes H.264", "fail", str(error), "make install"))
    return checks


def _archive_tools() -> list[Check]:
    from pipeline.data.archives.rar import TOOLS

    checks = []
    for tool, (package, _) in TOOLS.items():
        path = shutil.which(tool)
        cure = "" if path else f"for RAR archives (UCF101, HMDB51): apt-get install {package}"
        checks.append(_check(tool, "ok" if path else "warn", path or "not found", cure))
    return checks


def _git() -> Check:
    answer = git.ask("rev-parse", "--short", "HEAD")
    if answer.text is None:
        return _check("git", "warn", answer.reason, "deployments run the last commit: git init, then commit")
    return _check("git", "ok", f"at {answer.text.strip()}")


def _beside() -> list[Check]:
    """Prefect, MLflow and DVC: what `everest run` would be refused for, or would warn of."""
    from pipeline.preflight import orchestrator
    from pipeline.preflight.services import mlflow_warning
    from pipeline.system import dvc_locks

    server, warning, busy = orchestrator.address(), mlflow_warning(), dvc_locks.holder()
    fine = {
        "prefect": f"{server.value} answers (set in {server.origin})" if server else "embedded server",
        "mlflow": os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db").partition(":")[0] + " store",
        "dvc locks": "free",
    }
    faults = {
        "prefect": orchestrator.fault(),
        "mlflow": str(warning) if warning else None,
        "dvc locks": dvc_locks.stale(),
    }
    checks = []
    for name, text in faults.items():
        message, cure = parted(text or fine[name])
        checks.append(_check(name, "ok" if text is None else "fail", message, cure))
    if busy and not faults["dvc locks"]:
        checks[-1] = _check("dvc locks", "warn", busy, "wait for it; everest run does")
    return checks


def _parameters() -> Check:
    try:
        params = load_params()
    except EverestError as error:
        return _check("params.yaml", "fail", str(error).splitlines()[0], "see the message")
    return _check("params.yaml", "ok", f"recipe {params.recipe}: {', '.join(params.benchmarks)}")


def _obstacles() -> list[Check]:
    """What `everest run` would be refused for, before its first stage."""
    from pipeline import preflight

    try:
        obstacles = preflight.problems(preflight.chain_scope(load_params()))
    except EverestError:  # said above
        return []
    if not obstacles:
        return [_check("before the first stage", "ok", "nothing stands in the way")]
    return [_check(p.key, "warn" if p.kind == "warning" else "fail", parted(p)[0], p.cure) for p in obstacles]


def _data() -> list[Check]:
    try:
        params = load_params()
    except EverestError:
        return []
    checks = [_check("raw videos", "ok", str(data_root() / "raw"))]
    for stage in declared.stages(params.model_dump(mode="json")):
        file = declared.file_of(stage.name)
        try:
            wrong = records.misrecorded(f"{file}:{stage.address}")
        except DamagedError as error:
            wrong = f"{parted(error)[0]}."
        if wrong:
            target = stage.address if file == "dvc.yaml" else f"{file}:{stage.address}"
            cure = f"dvc repro --force --single-item {target}"
            checks.append(_check(f"parameters of {stage.address}", "fail", wrong, cure))
    steps: list[tuple[str, Callable[[str], Path]]] = [("download", manifest_dir), ("preprocess", cache_dir)]
    for key in params.benchmarks:
        missing = [stage for stage, folder in steps if not folder(key).exists()]
        state = f"not yet: {', '.join(missing)}" if missing else "manifest and cache"
        cure = f"dvc repro {missing[0]}@{key}, or everest run" if missing else ""
        checks.append(_check(f"data of {key}", "warn" if missing else "ok", state, cure))
        if manifest_dir(key).exists():
            checks.append(_whole(f"manifest of {key}", partial(_look_at_manifest, key)))
        if cache_dir(key).exists():
            checks.append(_whole(f"cache of {key}", partial(_look_at_cache, key)))
    folders = (output_dir("pretrain", None), *(output_dir("finetune", key) for key in params.benchmarks))
    models = [_whole(f"model {folder}", partial(_look_at_model, folder)) for folder in folders if folder.exists()]
    return [*checks, *models]


def _whole(name: str, look: Callable[[], str]) -> Check:
    """The check that something's bytes are those that were written."""
    try:
        return _check(name, "ok", look())
    except EverestError as error:
        message, cure = parted(error)
        return _check(name, "fail", f"{message}.", cure or "see the message")


def _look_at_manifest(key: str) -> str:
    from pipeline.data import manifest

    manifest.read_classes(manifest_dir(key) / manifest.CLASSES)
    return f"{manifest.load(manifest_dir(key) / 'manifest.parquet', status=None).num_rows} videos, checksum right"


def _look_at_cache(key: str) -> str:
    """Sizes, index, and a frame and the maps of a few videos: reading all of it would take minutes."""
    from pipeline.data.cache.read import Cache

    cache = Cache.open(cache_dir(key))
    rows = range(0, len(cache), max(1, len(cache) // LOOKED_AT))
    for row in rows:
        cache.frames(row, [0])
        cache.maps(row)
    return f"a frame of {len(rows)} of {len(cache)} videos is whole; `everest cache verify {key}` compares every byte"


def _look_at_model(folder: Path) -> str:
    from pipeline.model_folder import sha256

    return f"weights have the recorded SHA-256, {sha256(folder)[:12]}"
