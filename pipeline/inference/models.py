"""From what a user writes for a model to a folder with model.safetensors and model.json.

models:/everest-demo-motion@best    a registered model's alias
models:/everest-demo-motion/3       its version
3f0c...                             a run of the tracking server
outputs/finetune/motion             a folder

Nothing that could carry code is read: weights are safetensors, the description is JSON, any other file is
left alone. Weights are compared with the hash in their description wherever they are read; those of the registry with
the one that the version's tag records, too.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from pipeline import layout
from pipeline.errors import EverestError, InputError
from pipeline.model_folder import FILES, describe, sha256
from pipeline.system.files import atomic_folder, link, sha256_of
from pipeline.system.locks import locked

if TYPE_CHECKING:
    from models.backbone import Backbone
    from models.info import ModelArguments, ModelInfo
    from pipeline.tracking.store import RegisteredVersion, Store

#: Pickles, under the names that torch, scikit-learn, MLflow and others give them, and Python itself.
CARRY_CODE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".py")
_ADDRESS = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>[\w.-]+))")
_RUN = re.compile(r"[0-9a-f]{32}")


def resolve(model: str) -> Path:
    """The folder of a model.

    Registered ones are fetched into .work/models and compared with their recorded hash.

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
        return _fetch(store, store.models.version(match["name"], match["alias"] or match["version"]))
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
        versions = store.models.of_run(model)
        if not versions:
            raise InputError(f"run {model} registered no model. Cure: name a run of the stage evaluate.")
        return _fetch(store, versions[-1])
    raise InputError(f"model {model!r} is no folder, no run and no models:/ address. Cure: name one of these.")


def _fetch(store: Store, version: RegisteredVersion) -> Path:
    target = layout.WORK / "models" / f"{version['name']}-{version['version']}"
    expected = version["tags"].get("sha256")
    if not _holds(target, expected):
        title = f"version {version['version']} of {version['name']}"
        with locked(layout.WORK / "models.lock", title, wait=True):
            target.parent.mkdir(exist_ok=True)
            if not _holds(target, expected):
                _fetch_anew(store, version, target, expected, title)
    return target


def _fetch_anew(store: Store, version: RegisteredVersion, target: Path, expected: str | None, title: str) -> None:
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder,
        atomic_folder(target) as building,
    ):
        fetched = store.models.download(version, Path(folder) / "fetched")
        _refuse_code(fetched, title)
        for name in FILES:
            source = next(iter(sorted(fetched.rglob(name))), None)
            if source is None:
                raise EverestError(f"{title} lacks {name} in {version['source']}. Cure: name a model of this project.")
            shutil.move(source, building / name)
        _check_fetched(building, expected, title)


def _holds(target: Path, expected: str | None) -> bool:
    """Whether a model that was fetched before is there, and is the one that the registry recorded."""
    try:
        return expected is not None and sha256(target) == expected
    except InputError:
        return False


def _check_fetched(folder: Path, expected: str | None, title: str) -> None:
    """Compare fetched weights with the version's tag and with their description.

    A version that was registered before descriptions recorded hashes is known by its tag: its description gets them.

    Raises:
        EverestError: they are not what was registered.
    """
    from models.weights import WEIGHTS_HASH, read_info, write_info

    try:
        about = read_info(folder, verify=False)
        if WEIGHTS_HASH not in about and expected and sha256_of(folder / FILES[0]) == expected:
            write_info(folder, {**about, WEIGHTS_HASH: expected})
        digest = sha256(folder)
    except ValueError as error:
        raise EverestError(
            f"the weights of {title} are not those that were registered: {error}. "
            "Cure: register the model again with `everest evaluate`."
        ) from None
    if expected and digest != expected:
        raise EverestError(
            f"the weights of {title} are not those that were registered: their SHA-256 differs. "
            "Cure: register the model again with `everest evaluate`."
        )


def _refuse_code(folder: Path, title: str) -> None:
    """Refuse a model that came with files which run code when they are read, whether we would read them or not.

    Raises:
        InputError: naming them.
    """
    carriers = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in CARRY_CODE)
    if carriers:
        raise InputError(
            f"{title} carries {', '.join(carriers)}, which can run code when it is read. "
            f"Cure: use a model that holds {' and '.join(FILES)} only, as `everest evaluate` registers it."
        )


def load(model: str) -> tuple[Path, ModelInfo, Backbone]:
    """The folder of a classifier that a user names, its record and the network, ready to infer.

    Raises:
        InputError: no such model, one without classes, or files that are broken or do not belong together.
    """
    folder, info, network = load_any(model)
    if not info.num_classes:
        raise InputError(f"{folder} holds a pre-training model, which has no classes. Cure: name a fine-tuned one.")
    return folder, info, network


def load_any(model: str, **overrides: Unpack[ModelArguments]) -> tuple[Path, ModelInfo, Backbone]:
    """As :func:`load`, a pre-training model too; `overrides` change arguments that decide no weights.

    Raises:
        InputError: no such model, or files that are broken or do not belong together.
    """
    from models.weights import check_whole, load_model

    folder = resolve(model)
    info = describe(folder)
    try:
        check_whole(info.notes, folder)
        return folder, info, load_model(folder, **overrides).eval()
    except (ValueError, RuntimeError, TypeError) as error:
        # timm refuses an unknown name or argument by these.
        raise InputError(f"{folder}: {error}") from None


def load_hashed(model: str) -> tuple[Path, ModelInfo, Backbone, str]:
    """As :func:`load_any`, with the SHA-256 of the weights that were read.

    Raises:
        InputError: as there.
        EverestError: a stage put other weights in their place meanwhile.
    """
    folder = resolve(model)
    digest = sha256(folder)
    _, info, network = load_any(str(folder))
    if sha256(folder) != digest:
        raise EverestError(f"{folder} was replaced while it was read. Cure: the same command again.")
    return folder, info, network, digest


def prepare(source: Path, target: Path, info: ModelInfo) -> Path:
    """A copy of a model folder for the registry, with the record as the evaluation completed it.

    Raises:
        InputError: the weights are not those that the record names.
    """
    from models.weights import write_info

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    link(source / FILES[0], target / FILES[0])
    write_info(target, info.as_dict())
    sha256(target)
    return target
