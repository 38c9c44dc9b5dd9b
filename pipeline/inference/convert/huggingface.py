"""Folders of Hugging Face's VideoMAE models: their configuration, weights and class names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from models.info import MULTI_LABEL
from pipeline.errors import InputError
from pipeline.inference.convert.foreign_file import AGAIN, check_checkpoint_file
from pipeline.inference.convert.official import read_official
from pipeline.system.disk import writing
from pipeline.system.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from models.convert import HuggingFaceConfig
    from models.info import KnownFields

#: The problem type of a model whose videos may have several classes.
SEVERAL = "multi_label_classification"


def read_config(path: Path) -> HuggingFaceConfig:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError, too
        raise InputError(f"{path} is not valid JSON: {error}. Cure: download the folder again.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds a {type(config).__name__}, expected values by name. Cure: download it again.")
    for key in ("image_size", "num_frames"):
        value = config.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{path}: {key} = {value!r}, expected a whole number from 1 on. Cure: a VideoMAE model.")
    expected = {"model_type": "videomae", "hidden_act": "gelu", "patch_size": 16, "tubelet_size": 2}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: {key} = {config[key]!r}, expected {value!r}. Cure: a VideoMAE model.")
    return cast("HuggingFaceConfig", config)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a Hugging Face folder: in one file, or in several with an index of what lies where."""
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", lambda p: read_official(p)[0])):
        if (folder / name).exists():
            return read(folder / name)
        if (folder / f"{name}.index.json").exists():
            return _read_parts(folder, folder / f"{name}.index.json", read)
    raise InputError(f"{folder} has neither model.safetensors nor pytorch_model.bin. Cure: download it whole.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        check_checkpoint_file(path, safetensors=True)
        raise InputError(f"{path} is broken: {error}. Cure: download it again.") from None


def _read_parts(folder: Path, index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """All tensors that an index names, each from the file that it names for it."""
    try:
        place = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(place.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of weights ({error!r}). Cure: download it again.") from None
    state: dict[str, Tensor] = {}
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{index} names {name!r}, which is no file beside it. Cure: download the folder whole.")
        part = read(folder / name)
        if absent := [key for key in place if place[key] == name and key not in part]:
            raise InputError(f"{folder / name} lacks {absent[0]}, which {index.name} says it holds. {AGAIN}")
        state |= {key: value for key, value in part.items() if place.get(key) == name}
    return state


def write_huggingface(state: dict[str, Tensor], config: HuggingFaceConfig, folder: Path) -> None:
    import safetensors.torch

    from models.weights import write_whole

    tensors = {key: value.contiguous() for key, value in state.items()}
    with writing(folder / "model.safetensors"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def known_classes(config: HuggingFaceConfig) -> KnownFields:
    """What a Hugging Face configuration says of the classes: their names, and whether a video may have several.

    Names are left out where they are its placeholders, or not numbered from 0 on.
    """
    known: KnownFields = {"notes": {MULTI_LABEL: True}} if config.get("problem_type") == SEVERAL else {}
    named = config.get("id2label")
    if not isinstance(named, dict) or any(name == f"LABEL_{number}" for number, name in named.items()):
        return known
    if sorted(named) != sorted(map(str, range(len(named)))):
        return known
    return known | {"classes": tuple(str(named[str(number)]) for number in range(len(named)))}
