"""`everest export`: a classifier as torch.export program, ONNX or for Hugging Face, compared with the original."""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import EverestError, InputError
from pipeline.inference.huggingface import PACKAGES, check_transformers, write_huggingface
from pipeline.model_folder import FILES, describe
from pipeline.system.disk import writing
from pipeline.system.files import make_folder, publish_file, publish_folder, write_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models.backbone import Backbone

FORMATS = ("pt2", "onnx", "huggingface")
#: What is written where nothing is said: needs no further packages at its use.
USUAL = ("pt2", "onnx")
HUGGINGFACE = "huggingface"
#: Largest difference of logits that counts as equal.
TOLERANCE = 1e-4
BATCHES = (1, 8)
#: A clip's pixels, and its tokens' scores by this share, are changed so often to see whether the choice of its tokens
#: is clear; clips that are looked at for each one that is wanted.
NEARLY, CHANGES, TRIES = 3e-5, 16, 20
#: The model's record, beside what was exported and inside of it.
INFO = "model.json"


def command(model: str, out: str = "outputs/export", formats: Sequence[str] = USUAL, runs: int = 10) -> dict[str, Any]:
    """Write `<out>/model.pt2`, `<out>/model.onnx` and `<out>/huggingface`, for any number of clips, and `model.json`.

    The record (classes, frame step, views, pixels, ...) is also inside: an extra file of the program, and the entry
    `model.json` of the ONNX file's metadata.

    Args:
        model: as for `everest predict`.
        formats: which of pt2, onnx and huggingface. The last computes all tokens, and is compared with the original
            where that does so too.
        runs: timed forwards for each entry of the latency table.

    Returns:
        files, parity (format -> largest difference of logits), latency (rows: format, batch, milliseconds).

    Raises:
        InputError: an unknown format, or the ONNX packages are not installed.
        EverestError: an exported model differs by more than 1e-4.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"formats = {list(formats)}: expected some of {', '.join(FORMATS)}. Cure: choose of these.")
    if "onnx" in formats:
        absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if absent:
            raise InputError(f"ONNX export needs {', '.join(absent)}. Cure: {PACKAGES}.")
    if "huggingface" in formats:
        check_transformers()
    import torch

    from pipeline.inference.models import load, load_any

    source, info, network = load(model)
    shape = (3, info.frames, info.pixels.resolution, info.pixels.resolution)
    record = json.dumps(info.as_dict(), indent=2) + "\n"
    target = Path(out)
    _check_replaced(target / HUGGINGFACE)
    if target.resolve() != source.resolve():
        _check_record(target, formats)
    make_folder(target)
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=target, prefix=".export-") as building:
        made = {name: Path(building) / file_name(name) for name in formats}
        forwards: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch": network}
        originals = dict.fromkeys(formats, network)
        for name, file in made.items():
            with writing(target / file.name):
                if name == HUGGINGFACE:
                    forwards[name] = write_huggingface(source, info, file)
                    originals[name] = load_any(str(source), strategy="none")[2]
                else:
                    forwards[name] = _EXPORT[name](network, shape, file, record)
        clips = {count: _decided_clips(network, shape, count) for count in BATCHES}
        parity = {
            name: max(float((forwards[name](clip) - originals[name](clip)).abs().max()) for clip in clips.values())
            for name in formats
        }
        latency = [
            {"format": name, "batch": count, "milliseconds": round(_milliseconds(forward, clip, runs), 3)}
            for name, forward in forwards.items()
            for count, clip in clips.items()
        ]
        bad = {name: value for name, value in parity.items() if not value <= TOLERANCE}
        if bad:
            raise EverestError(
                f"exported models differ from the original: {bad}, allowed {TOLERANCE}. Nothing was written. "
                "Cure: export with the locked versions of torch and onnx (`make install`)."
            )
        for file in made.values():
            (publish_folder if file.is_dir() else publish_file)(file, target / file.name)
    written = [target / file_name(name) for name in formats]
    if target.resolve() != source.resolve():
        write_text(target / INFO, record)
        written.append(target / INFO)
    return {
        "files": [str(path) for path in written],
        "parity": parity,
        "latency": latency,
    }


def _decided_clips(network: Backbone, shape: tuple[int, ...], count: int) -> torch.Tensor:
    """Clips of noise [count, C, T, H, W] of which the model keeps the same tokens if pixels and scores change a little.

    Where two tokens' scores are equal, or but for rounding, each program may keep either, and both are right. Slot 0's
    are equal to slot 1's.
    """
    import torch

    from models.backbone import kept_mask

    source = torch.Generator().manual_seed(count)
    clips: list[torch.Tensor] = []
    for left in range(count * TRIES, 0, -1):
        clip = torch.randn(1, *shape, generator=source)
        kept = kept_mask(network.embed_kept(clip))
        # Of a model that decides nothing clearly, the last ones are taken.
        if left <= count - len(clips) or all(torch.equal(_nearly(network, clip, source), kept) for _ in range(CHANGES)):
            clips.append(clip)
        if len(clips) == count:
            break
    return torch.cat(clips)


def _nearly(network: Backbone, clip: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Which tokens are kept of nearly this clip, by nearly its scores."""
    import torch

    from models.backbone import kept_mask

    score, seen = network.score, clip + NEARLY * torch.randn(clip.shape, generator=source)

    def nearly(embedded_BND: torch.Tensor, slots: int) -> torch.Tensor:
        scores_BN = score(embedded_BND, slots)
        return scores_BN * (1 + NEARLY * torch.randn(scores_BN.shape, generator=source))

    network.score = nearly  # type: ignore[method-assign]
    try:
        return kept_mask(network.embed_kept(seen))
    finally:
        del network.score


def _check_replaced(folder: Path) -> None:
    """Refuse to put a new folder in the place of one that no export wrote."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "preprocessor_config.json").is_file():
        raise InputError(f"{folder} holds other files, which would be lost. Cure: another --out.")


def _check_record(folder: Path, formats: Sequence[str]) -> None:
    """Refuse to write over what no export wrote: another program's record, that of weights beside it, or its models."""
    if not (folder / INFO).exists():
        for file in (folder / file_name(name) for name in formats if name != HUGGINGFACE):
            if file.exists():
                raise InputError(f"{file} is not of `everest export`, and would be lost. Cure: another --out.")
        return
    try:
        ours = bool(describe(folder)) and not (folder / FILES[0]).exists()
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{folder / INFO} is not of `everest export`, and would be lost. Cure: another --out.")


def file_name(name: str) -> str:
    """The file or folder of a format, in the folder that is exported to."""
    return name if name == HUGGINGFACE else f"model.{name}"


def _pt2(network: nn.Module, shape: tuple[int, ...], path: Path, record: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    # Traced with two clips: a batch of one would be taken for a constant.
    program = torch.export.export(network, (torch.randn(2, *shape),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path, extra_files={INFO: record})
    loaded: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(path).module()
    return loaded


def _onnx(
    network: nn.Module, shape: tuple[int, ...], path: Path, record: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network,
        (torch.randn(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["clip"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None  # what dynamo=True returns
    program.model.metadata_props[INFO] = record
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run(None, {"clip": clip.numpy()})[0])


_EXPORT: dict[str, Callable[..., Callable[[torch.Tensor], torch.Tensor]]] = {"pt2": _pt2, "onnx": _onnx}


def _milliseconds(forward: Callable[[torch.Tensor], torch.Tensor], clip: torch.Tensor, runs: int) -> float:
    forward(clip)
    times = []
    for _ in range(max(1, runs)):
        began = time.perf_counter()
        forward(clip)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)
