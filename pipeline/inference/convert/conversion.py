"""A checkpoint of any format, read into our names, checked and written in another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, cast

from pipeline.data.manifest import read_classes
from pipeline.errors import InputError
from pipeline.inference.convert.huggingface import SEVERAL, known_classes, read_config, read_tensors, write_huggingface
from pipeline.inference.convert.official import count_of, read_official, token_choice, write_official
from pipeline.system.disk import writing
from pipeline.system.sealed import KEY

if TYPE_CHECKING:
    from torch import Tensor

    from models.info import KnownFields, ModelArguments, ModelInfo

Format = Literal["ours", "official", "huggingface"]
FORMATS: tuple[Format, ...] = ("ours", "official", "huggingface")
#: Arguments of ours that say which tokens of what are kept, in words that the other formats cannot hold.
TOKEN_CHOICE = ("strategy", "keep_ratio", "visible_ratio", "score_share", "head", "clip_input")
#: [pixels], frames of a clip, where neither the file nor the user says it: the papers'.
IMG_SIZE, NUM_FRAMES = 224, 16


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
        elif (head := read.kwargs.get("head", "mean")) != "mean":
            raise InputError(f"{source}: head {head!r} has no counterpart in {to!r}. Cure: a model with head mean.")
        elif (seen := read.kwargs.get("clip_input", "rgb")) != "rgb":
            raise InputError(
                f"{source}: clip_input = {seen}, which has no counterpart in {to!r}. Cure: a model of clip.input: rgb, "
                "or `everest export --to pt2`, which holds it."
            )
        elif to == "huggingface":
            config = huggingface_config(read.architecture, read.kwargs, info.classes)
            if info.multi_label:
                config["problem_type"] = SEVERAL
            write_huggingface(to_huggingface(read.state), config, destination)
        else:
            write_official(to_official(read.state), destination)
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
        config = read_config(source / "config.json")
        img_size, num_frames = config.get("image_size"), config.get("num_frames")
        state = from_huggingface(read_tensors(source))
        known = known_classes(config)
    elif source.is_file():
        form = "official"
        weights, arguments = read_official(source)
        state = from_official(weights)
        if not encoder_alone(state):
            choice = token_choice(source, arguments, is_pretraining(state), strategy)
        img_size = img_size or count_of(source, arguments, "input_size")
        num_frames = num_frames or count_of(source, arguments, "num_frames")
        known = {"frame_step": count_of(source, arguments, "sampling_rate")}
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
        choice = {"clip_input": choice["clip_input"]} if "clip_input" in choice else {}
    else:
        choice = choice or {"strategy": "tube" if is_pretraining(state) else "none"}
        if strategy is not None:
            choice["strategy"] = strategy
    name, shape = describe(state, img_size or IMG_SIZE, num_frames or NUM_FRAMES)
    kwargs = check_arguments(name, shape | choice)
    return Read(form, state, name, shape | choice if encoder_only else kwargs, known, encoder_only)


def _record(read: Read, classes: Path | None, frame_step: int | None, short_side: int | None) -> ModelInfo:
    """The model's record: what was said now, else what the checkpoint says of itself."""
    from models.convert import is_pretraining
    from models.info import FRAME_SECONDS, FRAME_SHARE, ModelInfo, Pixels, Views
    from models.weights import ENCODER, PART

    known = read.known
    part = {PART: ENCODER} if read.encoder_only else {}
    said = (FRAME_SECONDS, FRAME_SHARE) if frame_step else ()
    notes = {name: note for name, note in known.get("notes", {}).items() if name not in said}
    return ModelInfo(
        read.architecture,
        read.kwargs,
        "pretrain" if read.encoder_only or is_pretraining(read.state) else "finetune",
        known.get("dataset"),
        known.get("classes") if classes is None else _read_classes(classes),
        frame_step or known.get("frame_step"),
        known.get("views", Views()),
        Pixels(read.kwargs["img_size"], short_side or known.get("short_side")),
        {**notes, "created_by": "everest convert-checkpoint", **part},
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
