"""Official checkpoint files: those of EVEREST and VideoMAE, and the flags that they were trained with.

A pickle is read through an allow-list (tensors, plain containers and `argparse.Namespace`); one that carries code is
refused before anything of it runs.
"""

from __future__ import annotations

import numbers
import pickle
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.inference.convert.foreign_file import AGAIN, check_checkpoint_file
from pipeline.system.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

    from models.info import ModelArguments

#: Where training programs put the weights in their file.
WEIGHTS_KEYS = ("model", "module", "state_dict", "model_state_dict")
#: `mask_type` of an official pre-training file and our strategy.
MASK_TYPES = {"motion-centric": "everest", "tube": "tube", "random": "random"}


def read_official(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The weights and the training arguments of an official file. Raises InputError for one that carries code."""
    import torch

    check_checkpoint_file(path)
    try:
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        if not reason:
            raise InputError(f"{path} cannot be read as a torch checkpoint: it is none, or damaged. {AGAIN}") from None
        raise InputError(
            f"{path} holds more than weights and is refused: {reason}. "
            "Cure: a file with tensors, numbers, text and argparse.Namespace only, from the publisher."
        ) from None
    except Exception as error:  # noqa: BLE001 - the unpickler raises whatever the bytes lead it to
        reason = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"{path} cannot be read as a torch checkpoint: it is cut short or damaged "
            f"({type(error).__name__} {reason}). {AGAIN}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a dictionary with 'model' or 'module'.")
    state = next((content[key] for key in WEIGHTS_KEYS if isinstance(content.get(key), dict)), content)
    if not state or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise InputError(
            f"{path} has no weights under {', '.join(map(repr, WEIGHTS_KEYS))}, only "
            f"{', '.join(map(str, list(content)[:8]))}. Cure: the checkpoint file that training wrote, whole."
        )
    return dict(state), _arguments(path, content.get("args"))


def _plain_types() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """What a checkpoint may hold besides tensors: none of it runs code.

    Official training takes its learning rates from a NumPy array, so that they are NumPy's numbers in the optimizer.
    """
    import argparse
    from pathlib import PosixPath

    import numpy as np

    scalar: Callable[..., object] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]  # of NumPy 1 and 2
    return [argparse.Namespace, PosixPath, np.dtype, *kinds, *((scalar, name) for name in names)]


def _arguments(path: Path, stored: object) -> dict[str, object]:
    """The training arguments of a checkpoint by name, {} where it has none."""
    import argparse

    if stored is None:
        return {}
    if isinstance(stored, argparse.Namespace):
        return dict(vars(stored))
    if isinstance(stored, Mapping):
        return {str(name): value for name, value in stored.items()}
    raise InputError(
        f"{path}: args is a {type(stored).__name__}, expected arguments by name: how the weights were trained cannot "
        "be told. Cure: a file with its arguments as argparse.Namespace or dictionary, or without any."
    )


def count_of(path: Path, arguments: dict[str, object], flag: str) -> int | None:
    """A whole number from 1 on that training was told, None where it was not."""
    value = arguments.get(flag)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{path}: args.{flag} = {value!r}, expected a whole number from 1 on. Cure: a whole file.")
    return int(value)


def token_choice(path: Path, arguments: dict[str, object], pretrain: bool, strategy: str | None) -> ModelArguments:
    """Which tokens an official file was trained with, by its own flags (METHOD section 2).

    Its flags name what is dropped, ours what is kept. Files without these flags are VideoMAE's: {}. Of a file whose
    flags cannot be read, or say another strategy than the user, nothing is taken over.
    """
    try:
        choice = _flags(path, arguments, pretrain)
    except InputError:
        if strategy is None:
            raise
        return {}
    return choice if strategy in (None, choice.get("strategy")) else {}


def _flags(path: Path, arguments: dict[str, object], pretrain: bool) -> ModelArguments:
    if pretrain:
        mask = arguments.get("mask_type")
        if mask is None:
            return {}
        if not isinstance(mask, str) or mask not in MASK_TYPES:
            raise InputError(
                f"{path}: args.mask_type = {mask!r}, expected one of {', '.join(MASK_TYPES)}. "
                "Cure: say with --strategy which tokens the model is to be used with."
            )
        choice: ModelArguments = {"strategy": MASK_TYPES[mask]}
        if choice["strategy"] == "everest":
            choice["keep_ratio"] = _kept(path, arguments, "motion_centric_masking_ratio")
        if choice["strategy"] == "everest" or "mask_ratio" in arguments:
            choice["visible_ratio"] = _kept(path, arguments, "mask_ratio")
        return choice
    if "mcm" not in arguments and "mcm_ratio" not in arguments:
        return {}
    if arguments.get("mcm") not in (True, False):
        raise InputError(
            f"{path}: args.mcm = {arguments.get('mcm')!r}, expected true or false: whether tokens were dropped in "
            "fine-tuning. Cure: say it with --strategy everest or none."
        )
    if not arguments["mcm"]:
        return {"strategy": "none"}  # mcm_ratio is there with its default
    return {"strategy": "everest", "keep_ratio": _kept(path, arguments, "mcm_ratio")}


def _kept(path: Path, arguments: dict[str, object], flag: str) -> float:
    """One minus the share that a flag drops, in exact decimals."""
    dropped = arguments.get(flag)
    if isinstance(dropped, bool) or not isinstance(dropped, numbers.Real) or not 0 <= float(dropped) < 1:
        raise InputError(
            f"{path}: args.{flag} = {dropped!r}, expected the share of dropped tokens, from 0 to below 1. "
            "Cure: say with --strategy which tokens the model is to be used with."
        )
    return float(1 - Decimal(str(dropped)))


def write_official(state: dict[str, Tensor], path: Path) -> None:
    import torch

    with atomic_path(path) as unfinished:
        torch.save({"model": {key: value.clone() for key, value in state.items()}}, unfinished)
