"""A model's folder as stages read it: described, hashed, or refused with a cure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from models.info import ModelInfo


FILES = ("model.safetensors", "model.json")


def describe(folder: Path) -> ModelInfo:
    """The record of the model in a folder.

    Raises:
        InputError: there is none, or an incomplete one, or one whose entries contradict one another.
    """
    from models.info import ModelInfo
    from models.weights import read_info

    try:
        return ModelInfo.parse(read_info(folder), str(folder / FILES[1]))
    except ValueError as error:
        raise InputError(str(error)) from None


def sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights.

    Raises:
        InputError: they are not those that its description records, or it records none.
    """
    from models.weights import verified_sha256

    try:
        return verified_sha256(folder)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
