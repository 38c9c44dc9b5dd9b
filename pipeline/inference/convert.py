"""`everest convert-checkpoint`: between official files, this project's folders and Hugging Face's.

Official files are those of EVEREST and VideoMAE. A pickle is read through an allow-list (tensors, plain containers and
`argparse.Namespace`); one that carries code is refused before anything of it runs.
"""

from __future__ import annotations

import json
import numbers
import pickle
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, cast

from pipeline.data.manifest import read_classes
from pipeline.errors import InputError
from pipeline.inference.foreign_file import AGAIN, check_checkpoint_file
from pipeline.system.disk import writing
from pipeline.system.files import atomic_path, write_text
from pipeline.system.sealed import KEY

if TYPE_CHECKING:
    from torch import Tensor

    from models.convert import HuggingFaceConfig
    from models.info import KnownFields, ModelArguments, ModelInfo

Format = Literal["ours", "official", "huggingface"]
FORMATS: tuple[Format, ...] = ("ours", "official", "huggingface")
#: Arguments of ours that say which tokens are kept, in the words that the other formats cannot hold.
TOKEN_CHOICE = ("strategy", "keep_ratio", "visible_ratio", "score_share", "head")
#: [pixels], frames of a clip, where neither the file nor the user says it: the papers'.
IMG_SIZE, NUM_FRAMES = 224, 16
#: Where training programs put the weights in their file.
WEIGHTS_KEYS = ("model", "module", "state_dict", "model_state_dict")
#: `mask_type` of an official pre-training file and our strategy.
MASK_TYPES = {"motion-centric": "everest", "tube": "tube", "random": "random"}


class Read(NamedTuple):
    """A checkpoint in our names: its format, weights, timm name and arguments; and what else it says of itself."""

    format: Format
    state: dict[str, Tensor]
    architecture: str
    kwargs: ModelArguments
    #: What else it says of its use.
    known: KnownFields
    encoder_only: bool


class Converted(TypedDict):
    """The result of :func:`convert`: what was read and written, and how many tensors and parameters it has."""

    source: str
    source_format: Format
    destination: str
    format: Format
    architecture: str
    kwargs: ModelArguments
    part: Literal["encoder", "whole"]
    tensors: int
    parameters: int


def convert(
    source: Path,
    destination: Path,
    to: Format = "ours",
    *,
    img_size: int | None = None,
    num_frames: int | None = None,
    strategy: str | None = None,
    verify: bool = True,
    classes: Path | None = None,
    frame_step: int | None = None,
    short_side: int | None = None,
) -> Converted:
    """Write `source` (the format is recognised) to `destination` in the format `to`.

    `img_size` and `num_frames` are for official files that do not say them (else IMG_SIZE and NUM_FRAMES).
    `strategy` says which tokens the model is used with; without it an EVEREST file's own flags say it, and others get
    VideoMAE's tube or all tokens. `destination` is a folder for ours and huggingface, a file for official. `verify`
    False takes one of our folders as it is, without comparing it with its recorded hashes.

    What official files do not hold is said for `everest predict`, or carried over from ours and Hugging Face's:

    Args:
        classes: a file that names the classes in their order, one on each line, or a classes.json of the download.
        frame_step: frames from one of a clip to the next.
        short_side: [pixels] larger frames are shrunk to it before the crop; None leaves them as they are.

    Raises:
        InputError: a file that is missing, is no checkpoint, carries code, has missing or unknown keys, other shapes,
            or weights that are NaN or infinite; or more or fewer names than classes.
    """
    from models.convert import huggingface_config, to_huggingface, to_official
    from models.weights import save_state

    if to not in FORMATS:
        raise InputError(f"to = {to!r}, expected one of {', '.join(FORMATS)}. Cure: choose one of them.")
    try:
        read = read_checkpoint(Path(source), img_size=img_size, num_frames=num_frames, strategy=strategy, verify=verify)
        info = _record(read, classes, frame_step, short_side)
        if to == "ours":
            with writing(destination):
                save_state(read.state, destination, info.as_dict())
        elif read.encoder_only and to == "huggingface":
            raise InputError(
                f"{source} holds an encoder only, which none of Hugging Face's models here is: they have a decoder or "
                "a head. Cure: --to ours (to fine-tune from) or official."
            )
        elif read.kwargs.get("head") == "attentive":
            raise InputError(f"{source}: an attentive head has no counterpart in {to!r}. Cure: a model with head mean.")
        elif to == "huggingface":
            config = huggingface_config(read.architecture, read.kwargs, info.classes)
            _write_huggingface(to_huggingface(read.state), config, destination)
        else:
            _write_official(to_official(read.state), destination)
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{source}: {error}") from None
    return {
        "source": str(source),
        "source_format": read.format,
        "destination": str(destination),
        "format": to,
        "architecture": read.architecture,
        "kwargs": read.kwargs,
        "part": "encoder" if read.encoder_only else "whole",
        "tensors": len(read.state),
        "parameters": sum(value.numel() for value in read.state.values()),
    }


def read_checkpoint(
    source: Path,
    *,
    img_size: int | None = None,
    num_frames: int | None = None,
    strategy: str | None = None,
    verify: bool = True,
) -> Read:
    """A checkpoint of any of the formats in our names, every key, shape and value checked."""
    from models.convert import (
        check_arguments,
        check_values,
        describe,
        encoder_alone,
        from_huggingface,
        from_official,
        is_pretraining,
    )
    from models.info import known_fields
    from models.weights import INFO, read_info, read_state

    choice: ModelArguments = {}
    known: KnownFields = {}
    if source.is_dir() and (source / INFO).exists():
        form: Format = "ours"
        state, about = read_state(source, verify), read_info(source, verify)
        kwargs, known = about["kwargs"], known_fields(about, str(source / INFO))
        img_size, num_frames = kwargs.get("img_size"), kwargs.get("num_frames")
        choice = cast("ModelArguments", {key: kwargs.get(key) for key in TOKEN_CHOICE if key in kwargs})
    elif source.is_dir() and (source / "config.json").exists():
        form = "huggingface"
        config = _read_config(source / "config.json")
        img_size, num_frames = config.get("image_size"), config.get("num_frames")
        state = from_huggingface(_read_tensors(source))
        known = _labels(config)
    elif source.is_file():
        form = "official"
        weights, arguments = read_official(source)
        state = from_official(weights)
        if not encoder_alone(state):
            choice = _official_choice(source, arguments, is_pretraining(state), strategy)
        img_size = img_size or _counted(source, arguments, "input_size")
        num_frames = num_frames or _counted(source, arguments, "num_frames")
        known = {"frame_step": _counted(source, arguments, "sampling_rate")}
    else:
        raise InputError(
            f"{source} is neither a file nor a folder with {INFO} or config.json. Cure: an official .pth file, a "
            "folder of this project, or a Hugging Face folder."
        )
    check_values(state)
    encoder_only = encoder_alone(state)
    if encoder_only:
        if strategy is not None:
            raise InputError(
                f"strategy = {strategy!r}: {source} holds an encoder only, which chooses no tokens. "
                "Cure: leave it out, and set finetune.strategy where the encoder is fine-tuned."
            )
        choice = {}
    else:
        choice = choice or {"strategy": "tube" if is_pretraining(state) else "none"}
        if strategy is not None:
            choice["strategy"] = strategy
    name, found = describe(state, img_size or IMG_SIZE, num_frames or NUM_FRAMES)
    kwargs = check_arguments(name, found | choice)
    return Read(form, state, name, found if encoder_only else kwargs, known, encoder_only)


def _record(read: Read, classes: Path | None, frame_step: int | None, short_side: int | None) -> ModelInfo:
    """The model's record: what was said now, else what the checkpoint says of itself."""
    from models.convert import is_pretraining
    from models.info import ModelInfo, Pixels, Views
    from models.weights import ENCODER, PART

    known = read.known
    part = {PART: ENCODER} if read.encoder_only else {}
    return ModelInfo(
        read.architecture,
        read.kwargs,
        "pretrain" if read.encoder_only or is_pretraining(read.state) else "finetune",
        known.get("dataset"),
        known.get("classes") if classes is None else _read_classes(classes),
        frame_step or known.get("frame_step"),
        known.get("views", Views()),
        Pixels(read.kwargs["img_size"], short_side or known.get("short_side")),
        {**known.get("notes", {}), "created_by": "everest convert-checkpoint", **part},
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one on each line, or from a classes.json, whose checksum is compared if it has one.

    Raises:
        InputError: no such file, no list, or not what a download wrote.
    """
    cure = "Cure: one name on each line, in the order that the model was trained with."
    try:
        text = path.read_text(encoding="utf-8-sig")
        record = json.loads(text) if path.suffix == ".json" else {"classes": text.splitlines()}
        names = read_classes(path) if KEY in record else record["classes"]
        return tuple(str(name).strip() for name in names if str(name).strip())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. {cure}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no list of class names in UTF-8 ({error!r}). {cure}") from None


def _labels(config: HuggingFaceConfig) -> KnownFields:
    """Class names of a Hugging Face configuration; {} where they are its placeholders, or not numbered from 0 on."""
    named = config.get("id2label")
    if not isinstance(named, dict) or any(name == f"LABEL_{number}" for number, name in named.items()):
        return {}
    if sorted(named) != sorted(map(str, range(len(named)))):
        return {}
    return {"classes": tuple(str(named[str(number)]) for number in range(len(named)))}


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


def _counted(path: Path, arguments: dict[str, object], flag: str) -> int | None:
    """A whole number from 1 on that training was told, None where it was not."""
    value = arguments.get(flag)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{path}: args.{flag} = {value!r}, expected a whole number from 1 on. Cure: a whole file.")
    return int(value)


def _official_choice(path: Path, arguments: dict[str, object], pretrain: bool, strategy: str | None) -> ModelArguments:
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


def _read_config(path: Path) -> HuggingFaceConfig:
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


def _read_tensors(folder: Path) -> dict[str, Tensor]:
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


def _write_huggingface(state: dict[str, Tensor], config: HuggingFaceConfig, folder: Path) -> None:
    import safetensors.torch

    from models.weights import write_whole

    tensors = {key: value.contiguous() for key, value in state.items()}
    with writing(folder / "model.safetensors"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _write_official(state: dict[str, Tensor], path: Path) -> None:
    import torch

    with atomic_path(path) as unfinished:
        torch.save({"model": {key: value.clone() for key, value in state.items()}}, unfinished)
