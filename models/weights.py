"""Models on disk: `model.safetensors` beside `model.json`, and the encoder of one model inside another.

`model.json` holds "architecture" (timm name), "kwargs" (its arguments) and whatever the writer adds ("stage",
"clip", ...).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"
INFO = "model.json"


def save_model(model: nn.Module, folder: Path, info: Mapping[str, Any] | None = None) -> None:
    """Write a model made by `timm.create_model` to a folder; each file appears whole or not at all."""
    if not hasattr(model, "architecture"):
        raise ValueError(f"{type(model).__name__} does not know its timm name. Cure: make it with timm.create_model.")
    save_state(
        model.state_dict(),
        folder,
        {**(info or {}), "architecture": model.architecture, "kwargs": model.kwargs},
    )


def save_state(state: Mapping[str, Tensor], folder: Path, info: Mapping[str, Any]) -> None:
    """Write weights and their description; `info` must hold "architecture" and "kwargs"."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    unfinished = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / WEIGHTS)
    unfinished = folder / f".{INFO}.{os.getpid()}"
    unfinished.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / INFO)


def read_info(folder: Path) -> dict[str, Any]:
    """The description of a saved model. Raises ValueError where the folder holds none."""
    path = Path(folder) / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist, expected a folder with {INFO} and {WEIGHTS}. "
            "Cure: give a folder that training or `everest convert-checkpoint` wrote."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Cure: write the model again.") from None
    if not isinstance(info, dict) or not {"architecture", "kwargs"} <= info.keys():
        raise ValueError(f'{path} lacks "architecture" or "kwargs". Cure: write the model again.')
    return info


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model, on the CPU. Raises ValueError for a missing or broken file."""
    path = Path(folder) / WEIGHTS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist. Cure: give a folder with {INFO} and {WEIGHTS}.") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}. Cure: write the model again.") from None


def load_model(folder: Path, **overrides: Any) -> nn.Module:
    """Build a saved model again, weights included; `overrides` change arguments that hold no
    weights (strategy, ...).
    """
    info = read_info(folder)
    model = timm.create_model(info["architecture"], **{**info["kwargs"], **overrides})
    load_strict(model, read_state(folder), str(folder))
    return model


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
    """Put a checkpoint's encoder into a classifier; returns the keys that keep their fresh values (norm,
    head, pool).

    Raises ValueError naming every encoder weight that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    expected = {key: tuple(value.shape) for key, value in encoder_state(own).items()}
    incoming = encoder_state(state)
    check_state(incoming, expected, origin)
    with torch.no_grad():
        model.load_state_dict(incoming, strict=False)
    return [key for key in own if key not in incoming]


def init_from(model: nn.Module, folder: Path) -> list[str]:
    """`load_encoder` from a saved model's folder."""
    return load_encoder(model, read_state(folder), str(folder))
