"""Models on disk: `model.safetensors` beside `model.json`, and the encoder of one model inside another.

`model.json` holds "architecture" (timm name), "kwargs" (its arguments) and what else the use of the model takes
(`models.info`). It is written last, with the SHA-256 of the weights and one of its own other entries; whatever is read
is compared with them first, and the bytes that were compared are those that are used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Unpack, cast

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models.backbone import Backbone
from models.info import Description, ModelArguments

WEIGHTS = "model.safetensors"
INFO = "model.json"
#: Entry of model.json and its value where a folder holds a pre-trained encoder without decoder and head.
PART, ENCODER = "part", "encoder"
#: Weights of a classifier that only some strategies have.
BY_STRATEGY = ("lengths",)
#: Entries of model.json: SHA-256 of model.safetensors, and of model.json's other entries.
WEIGHTS_HASH: Final = "weights_sha256"
INFO_HASH: Final = "description_sha256"


def save_model(model: nn.Module, folder: Path, info: Mapping[str, object] | None = None) -> None:
    """Write a model made by `timm.create_model` to a folder; each file appears whole or not at all."""
    if not hasattr(model, "architecture"):
        raise ValueError(f"{type(model).__name__} does not know its timm name. Cure: make it with timm.create_model.")
    save_state(
        model.state_dict(),
        folder,
        {**(info or {}), "architecture": model.architecture, "kwargs": model.kwargs},
    )


def save_state(state: Mapping[str, Tensor], folder: Path, info: Mapping[str, object]) -> None:
    """Write weights and their description; `info` must hold "architecture" and "kwargs"."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    # Hashed before they are written: the record is of what was meant, whatever the disk makes of it.
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, content)
    write_info(folder, {**info, WEIGHTS_HASH: hashlib.sha256(content).hexdigest()})


def write_info(folder: Path, info: Mapping[str, object]) -> None:
    """Write the description of a model whose weights lie in `folder`; `info` must hold their hash."""
    write_whole(folder / INFO, json.dumps(sealed(info), indent=2).encode() + b"\n")


def sealed(info: Mapping[str, object]) -> dict[str, object]:
    """A description with the hash of all its other entries."""
    rest = {key: value for key, value in info.items() if key != INFO_HASH}
    return {**rest, INFO_HASH: hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, with the mode of any new file.

    safetensors makes its own private: in a shared folder only their writer could read the weights.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_info(folder: Path, verify: bool = True) -> Description:
    """The description of a saved model.

    Args:
        verify: refuse one that records no hashes, or that is not what was written.

    Raises ValueError where the folder holds none.
    """
    path = Path(folder) / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist, expected a folder with {INFO} and {WEIGHTS}. "
            "Cure: give a folder that training or `everest convert-checkpoint` wrote."
        ) from None
    except ValueError as error:  # UnicodeDecodeError, too
        raise ValueError(f"{path} is not valid JSON: {error}. Cure: write the model again.") from None
    if not isinstance(info, dict) or not {"architecture", "kwargs"} <= info.keys():
        raise ValueError(f'{path} lacks "architecture" or "kwargs". Cure: write the model again.')
    if verify:
        _check_info(info, path)
    return cast(Description, info)


def _check_info(info: Mapping[str, object], path: Path) -> None:
    again = f"`everest convert-checkpoint {path.parent} NEW_FOLDER --unverified` takes it as it is"
    if WEIGHTS_HASH not in info or INFO_HASH not in info:
        raise ValueError(
            f"{path} records no SHA-256 ({WEIGHTS_HASH}, {INFO_HASH}): a former version wrote it, so damage could not "
            f"be told. Cure: train again, or, if you trust these files, {again}."
        )
    if sealed(info)[INFO_HASH] != info[INFO_HASH]:
        raise ValueError(
            f"{path} is not what was written: its entries do not have the SHA-256 that it records. Cure: put the model "
            f"back (`dvc checkout`) or make it again; if you changed it on purpose, {again}."
        )


def read_state(folder: Path, verify: bool = True) -> dict[str, Tensor]:
    """The weights of a saved model, on the CPU, compared with the hash in its description.

    Args:
        verify: False for files of a former version that are taken as they are.

    Raises ValueError for a missing or broken file, and for bytes that are not those that were written.
    """
    path = Path(folder) / WEIGHTS
    try:
        return safetensors.torch.load(verified_weights(folder) if verify else _read(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}. Cure: write the model again.") from None


def verified_weights(folder: Path) -> bytes:
    """The bytes of a saved model's weights, if they are those that were written. Raises ValueError if not."""
    expected = read_info(folder)[WEIGHTS_HASH]
    content = _read(Path(folder) / WEIGHTS)
    _compare(Path(folder), hashlib.sha256(content).hexdigest(), expected)
    return content


def verified_sha256(folder: Path) -> str:
    """As :func:`verified_weights`, but their SHA-256, without holding the file in memory."""
    expected = read_info(folder)[WEIGHTS_HASH]
    try:
        with (Path(folder) / WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _absent(Path(folder) / WEIGHTS) from None
    _compare(Path(folder), digest, expected)
    return digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _absent(path) from None


def _absent(path: Path) -> ValueError:
    return ValueError(f"{path} does not exist. Cure: give a folder with {INFO} and {WEIGHTS}.")


def _compare(folder: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise ValueError(
            f"{folder / WEIGHTS} is not what was written: its SHA-256 begins {digest[:12]}, {INFO} records "
            f"{expected[:12]}. The file is damaged or was replaced. Cure: put the model back (`dvc checkout`) or make "
            "it again."
        )


def load_model(folder: Path, **overrides: Unpack[ModelArguments]) -> Backbone:
    """Build a saved model again, weights included.

    `overrides` change arguments that decide no weights, such as the strategy.
    """
    info = read_info(folder)
    check_whole(info, Path(folder))
    arguments: ModelArguments = {**info["kwargs"], **overrides}
    model = cast(Backbone, timm.create_model(info["architecture"], **arguments))
    state = read_state(folder)
    if "strategy" in overrides:
        # What only some strategies have: one that was not trained with it leaves it as it is made, which adds nothing.
        fresh = {key: value for key, value in model.state_dict().items() if key in BY_STRATEGY}
        state = fresh | {key: value for key, value in state.items() if key not in BY_STRATEGY or key in fresh}
    load_strict(model, state, str(folder))
    return model


def check_whole(info: Mapping[str, object], folder: Path) -> None:
    """Raise ValueError where a folder holds an encoder only, naming what it can be used for."""
    if info.get(PART) == ENCODER:
        raise ValueError(
            f"{folder} holds an encoder only: no decoder to reconstruct with and no head to classify with. Cure: "
            f"start a fine-tuning from it (finetune.init: {folder}) and use what comes out; "
            "preprocess.map_weights takes it, too."
        )


def load_strict(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """`load_state_dict` that names missing keys, unknown keys and wrong shapes in one ValueError."""
    check_state(state, {key: tuple(value.shape) for key, value in model.state_dict().items()}, origin)
    model.load_state_dict(dict(state))


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], origin: str) -> None:
    """Raise ValueError unless keys and shapes of a state are exactly the expected ones."""
    faults = [f"missing {key}" for key in expected if key not in state]
    faults += [f"unknown {key}" for key in state if key not in expected]
    faults += [
        f"{key} has shape {tuple(state[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise ValueError(
            f"{origin}: weights do not fit the model: {'; '.join(faults[:12])}{more}. "
            "Cure: choose the size, classes and head that the weights were made with."
        )


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a pre-training or classifier state that a classifier starts from: embedding and blocks.

    The encoder's final norm, the decoder and any head stay behind (METHOD section 5).
    """
    inner = {key.removeprefix("encoder."): value for key, value in state.items()}
    return {key: value for key, value in inner.items() if key.startswith(("patch_embed.", "blocks."))}


def load_encoder(model: nn.Module, state: Mapping[str, Tensor], origin: str = "the checkpoint") -> list[str]:
    """Put a checkpoint's encoder into a classifier.

    Returns the keys that keep their fresh values (norm, head, pool). Raises ValueError naming every encoder weight that
    is missing, unknown or of another shape.
    """
    current = model.state_dict()
    expected = {key: tuple(value.shape) for key, value in encoder_state(current).items()}
    incoming = encoder_state(state)
    check_state(incoming, expected, origin)
    with torch.no_grad():
        model.load_state_dict(incoming, strict=False)
    return [key for key in current if key not in incoming]


def init_from(model: nn.Module, folder: Path) -> list[str]:
    """`load_encoder` from a saved model's folder, whose model saw what this one sees of a clip."""
    seen, wanted = read_info(folder)["kwargs"].get("clip_input", "rgb"), getattr(model, "clip_input", "rgb")
    if seen != wanted:
        raise ValueError(
            f"{folder} was trained on {seen} clips, the model takes {wanted}. Cure: set clip.input to {seen}, or name "
            "other weights."
        )
    return load_encoder(model, read_state(folder), str(folder))
