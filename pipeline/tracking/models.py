"""From what a user writes for a model to a folder with model.safetensors and model.json.

models:/everest-demo-motion@best    a registered model's alias
models:/everest-demo-motion/3       its version
3f0c...                             a run of the tracking server
outputs/finetune/motion             a folder

Nothing that could carry code is read: weights are safetensors, the description is JSON, any other file is
left alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import layout
from pipeline.errors import EverestError, InputError

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

FILES = ("model.safetensors", "model.json")
_ADDRESS = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>[\w.-]+))")
_RUN = re.compile(r"[0-9a-f]{32}")


def resolve(model: str) -> Path:
    """The folder of a model; registered ones are fetched into .work/models and compared with their recorded
    hash.

    Raises:
        InputError: no such model, or an address of another form.
        EverestError: the fetched weights are not those that were registered.
    """
    if model.startswith("models:"):
        match = _ADDRESS.fullmatch(model)
        if match is None:
            raise InputError(
                f"model {model!r}: expected models:/NAME@ALIAS or models:/NAME/VERSION. Cure: write it so."
            )
        from pipeline.tracking.store import Store

        store = Store()
        return _fetch(store, store.version(match["name"], match["alias"] or match["version"]))
    folder = Path(model)
    if folder.is_file() and folder.name in FILES:
        folder = folder.parent
    if folder.is_dir():
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} holds no {' and no '.join(missing)}. Cure: name a folder that a stage wrote.")
        return folder
    if _RUN.fullmatch(model):
        from pipeline.tracking.store import Store

        store = Store()
        versions = store.versions_of_run(model)
        if not versions:
            raise InputError(f"run {model} registered no model. Cure: name a run of the stage evaluate.")
        return _fetch(store, versions[-1])
    raise InputError(f"model {model!r} is no folder, no run and no models:/ address. Cure: name one of these.")


def _fetch(store: Store, version: dict[str, Any]) -> Path:
    target = layout.WORK / "models" / f"{version['name']}-{version['version']}"
    expected = version["tags"].get("sha256")
    if all((target / name).is_file() for name in FILES) and sha256(target) == expected:
        return target
    shutil.rmtree(target, ignore_errors=True)
    found = store.download_model(version, target / "fetched")
    for name in FILES:
        source = next(iter(sorted(found.rglob(name))), None)
        if source is None:
            raise EverestError(
                f"version {version['version']} of {version['name']} lacks {name} in {version['source']}."
            )
        shutil.move(source, target / name)
    shutil.rmtree(target / "fetched", ignore_errors=True)
    if expected and sha256(target) != expected:
        shutil.rmtree(target)
        raise EverestError(
            f"the weights of {version['name']} version {version['version']} are not those that were registered: their "
            "SHA-256 differs. Cure: register the model again with `everest evaluate`."
        )
    return target


def sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights."""
    with (folder / FILES[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare(source: Path, target: Path, facts: dict[str, Any]) -> Path:
    """A copy of a model folder for the registry, with `facts` (classes, frame_step, ...) added to its description."""
    import json
    import os

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        os.link(source / FILES[0], target / FILES[0])
    except OSError:
        shutil.copy2(source / FILES[0], target / FILES[0])
    info = json.loads((source / FILES[1]).read_text(encoding="utf-8"))
    (target / FILES[1]).write_text(json.dumps({**info, **facts}, indent=1) + "\n", encoding="utf-8")
    return target
