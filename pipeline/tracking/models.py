"""From what a user writes for a model to a folder with model.safetensors and model.json.

models:/everest-demo-motion@best    a registered model's alias
models:/everest-demo-motion/3       its version
3f0c...                             a run of the tracking server
outputs/finetune/motion             a folder

Nothing that could carry code is read: weights are safetensors, the description is JSON, any other file is
left alone.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import layout
from pipeline.data.files import sha256_of
from pipeline.errors import EverestError, InputError

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

FILES = ("model.safetensors", "model.json")
#: Pickles, under the names that torch, scikit-learn, MLflow and others give them, and Python itself.
CARRY_CODE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".py")
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

        store = Store.existing()
        return _fetch(store, store.version(match["name"], match["alias"] or match["version"]))
    folder = Path(model)
    if folder.is_file() and folder.name in FILES:
        folder = folder.parent
    if folder.is_dir():
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} holds no {' and no '.join(missing)}. Cure: name a folder that a stage wrote.")
        _refuse_code(folder, str(folder))
        return folder
    if _RUN.fullmatch(model):
        from pipeline.tracking.store import Store

        store = Store.existing()
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
    title = f"version {version['version']} of {version['name']}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        found = store.download_model(version, Path(folder) / "fetched")
        _refuse_code(found, title)
        whole = Path(folder) / "whole"
        whole.mkdir()
        for name in FILES:
            source = next(iter(sorted(found.rglob(name))), None)
            if source is None:
                raise EverestError(f"{title} lacks {name} in {version['source']}. Cure: name a model of this project.")
            shutil.move(source, whole / name)
        if expected and sha256(whole) != expected:
            raise EverestError(
                f"the weights of {title} are not those that were registered: their SHA-256 differs. "
                "Cure: register the model again with `everest evaluate`."
            )
        shutil.rmtree(target, ignore_errors=True)
        whole.rename(target)
    return target


def _refuse_code(folder: Path, title: str) -> None:
    """Refuse a model that came with files which run code when they are read, whether we would read them or not.

    Raises:
        InputError: naming them.
    """
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in CARRY_CODE)
    if found:
        raise InputError(
            f"{title} carries {', '.join(found)}, which can run code when it is read. "
            f"Cure: use a model that holds {' and '.join(FILES)} only, as `everest evaluate` registers it."
        )


def load(model: str) -> tuple[Path, dict[str, Any], Any]:
    """The folder of a classifier that a user names, its description and the network, ready to infer.

    Raises:
        InputError: no such model, one without classes, or files that are broken or do not belong together.
    """
    from models.weights import load_model, read_info

    folder = resolve(model)
    try:
        info = read_info(folder)
        if "num_classes" not in info["kwargs"]:
            raise InputError(f"{folder} holds a pre-training model, which has no classes. Cure: name a fine-tuned one.")
        return folder, info, load_model(folder).eval()
    except InputError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        # timm refuses an unknown name or argument by these.
        raise InputError(f"{folder}: {error}") from None


def sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights."""
    return sha256_of(folder / FILES[0])


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
