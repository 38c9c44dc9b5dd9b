"""Folders, files and addresses that params.yaml names, and the room that caches will take."""

from __future__ import annotations

import configparser
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.data import manifest
from pipeline.errors import EverestError, InputError, parted
from pipeline.params import PATCH, SCRATCH, TUBELET, Params
from pipeline.params.consistency import PRETRAINED
from pipeline.preflight.problem import Problem, Scope
from pipeline.system.files import free_bytes, size_text

#: [s] for a server to accept a connection.
CONNECT_SECONDS = 3.0
#: [byte] that stay free beside a planned cache: checkpoints, records, the system.
RESERVE = 256 << 20
#: [byte] of a cached JPEG frame for each of its pixels, at quality 90; a third less than measured, so that no cache
#: that fits is refused.
JPEG_BYTES_PER_PIXEL = 0.2


def weights(scope: Scope) -> Iterator[Problem]:
    """Weights to start from that are not there, or are of another size or shape."""
    params = scope.params
    init = params.finetune.init
    if scope.has("finetune") and init not in (SCRATCH, PRETRAINED):
        cure = f"name a folder that `everest convert-checkpoint` wrote, outputs/pretrain, or {SCRATCH}."
        yield from _model("finetune.init", Path(init), cure)
        yield from _shape(params, Path(init), scope.chain)
    source = params.preprocess.map_weights
    if scope.has("preprocess") and source is not None and params.preprocess.map_source == "embedding":
        yield from _model("preprocess.map_weights", Path(source), "name a folder with a model, or null.")


def _model(key: str, folder: Path, cure: str) -> Iterator[Problem]:
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            yield Problem(key, f"= {str(folder)!r}: {folder / name} does not exist", cure)
            return


def _shape(params: Params, folder: Path, chain: bool) -> Iterator[Problem]:
    """What tells of weights that the fine-tuning would stop at, or start from otherwise than meant."""
    try:
        info: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        architecture, arguments = str(info["architecture"]), dict(info["kwargs"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(
            "finetune.init", f"= {str(folder)!r}: model.json cannot be used ({error!r})", "write the model again."
        )
        return
    size = next(
        (part for part in architecture.split("_") if part in ("tiny", "mini", "small", "base", "large", "huge")), None
    )
    if size is not None and size != params.pretrain.size:
        yield Problem(
            "finetune.init", f"= {str(folder)!r} holds a model of size {size}, pretrain.size = {params.pretrain.size}",
            f"set pretrain.size to {size}, or name other weights.",
        )  # fmt: skip
        return
    if (seen := arguments.get("clip_input", "rgb")) != params.clip.input:
        fault = f"= {str(folder)!r} was trained on {seen} clips, clip.input = {params.clip.input}"
        yield Problem("finetune.init", fault, f"set clip.input to {seen}, or name other weights.")
        return
    for name, expected in (("patch_size", PATCH), ("tubelet_size", TUBELET), ("in_chans", 3)):
        if arguments.get(name, expected) != expected:
            fault = f"= {str(folder)!r} holds a model with {name} = {arguments[name]}, expected {expected}"
            yield Problem("finetune.init", fault, "name other weights.")
            return
    clip, trained = params.clip, (arguments.get("num_frames", 16), arguments.get("img_size", 224))
    if trained != (clip.frames, clip.resolution):
        yield Problem(
            "finetune.init", f"= {str(folder)!r} was trained on clips of {trained[0]} frames at {trained[1]} px, and "
            f"clip has {clip.frames} at {clip.resolution}", "none if that is meant; else change clip.", "warning",
        )  # fmt: skip
    if chain and (folder / "model.safetensors").is_file():
        from pipeline import model_folder  # loads torch: asked only where weights come from elsewhere

        try:
            model_folder.sha256(folder)
        except InputError as error:
            message, cure = parted(error)
            yield Problem("finetune.init", f": {message}", cure)


def sources(scope: Scope) -> Iterator[Problem]:
    """Credentials that a download would be refused with."""
    for key in scope.of("download"):
        source = scope.params.benchmarks[key].data.source
        done = (layout.manifest_dir(key) / "manifest.parquet").exists()
        if source.kind == "official" and source.profile and not done:
            yield from _profile(f"benchmarks.{key}.data.source.profile", source.profile)


def _profile(key: str, name: str) -> Iterator[Problem]:
    """A named AWS profile that is absent or says itself that it has expired; nothing is asked over the network."""
    keys = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    config = Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    sections: dict[str, dict[str, str]] = {}
    for path in (config, keys):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError) as error:
            yield Problem(key, f"= {name!r}: {path} cannot be read ({type(error).__name__})", "mend that file.")
            return
        for section in parser.sections():
            sections.setdefault(section.removeprefix("profile "), {}).update(parser[section])
    if name not in sections:
        yield Problem(
            key, f"= {name!r} is no profile in {keys}",
            f"`aws configure --profile {name}` with the keys that came with your licence.",
        )  # fmt: skip
        return
    for field in ("expiration", "aws_expiration", "x_security_token_expires", "aws_session_expiration"):
        if text := sections[name].get(field):
            try:
                end = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
            except ValueError:
                continue
            if end.astimezone(datetime.UTC) < datetime.datetime.now(datetime.UTC):
                yield Problem(key, f"= {name!r} has expired at {text} ({keys})", "fetch new keys for that profile.")


def cluster(scope: Scope) -> Iterator[Problem]:
    """A Dask scheduler that does not answer."""
    address = scope.params.compute.cluster
    if address is None or not scope.has("download", "preprocess"):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        yield Problem("compute.cluster", f"= {address!r} is no address", "tcp://host:8786, as `dask scheduler` says.")
    elif why := refused(host.strip("[]"), int(port)):
        yield Problem(
            "compute.cluster", f"= {address} does not answer ({why})",
            "start `dask scheduler` there, or set compute.cluster to null.", "failure",
        )  # fmt: skip


def refused(host: str, port: int) -> str | None:
    """Why a server does not accept a connection; None where it does."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return str(error)
    return None


def unwritable(folder: Path) -> str | None:
    """Why nothing could be written below a folder that may not exist yet; None where it could."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is no folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written to by this user"


def disk(scope: Scope) -> Iterator[Problem]:
    """Folders that cannot be written to, and caches that the disk has no room for."""
    for folder in (layout.data_root(), Path("data"), Path("outputs"), Path("metrics"), layout.WORK):
        if why := unwritable(folder):
            yield Problem(str(folder), f"cannot be used: {why}", "mend its rights, or work elsewhere.", "failure")
            return
    needed = {key: _cache_bytes(scope.params, key) for key in scope.of("preprocess")}
    total, free = sum(needed.values()), free_bytes(Path("data/cache").absolute())
    if total and free < total + RESERVE:
        names = ", ".join(key for key, size in needed.items() if size)
        yield Problem(
            "preprocess", f": the caches of {names} take about {size_text(total)}, {RESERVE >> 20} MiB must stay free "
            f"beside them, and {size_text(free)} are free in {Path('data/cache').absolute()}",
            "free some space, store: jpeg, or a smaller short_side.", "failure",
        )  # fmt: skip


def _cache_bytes(params: Params, key: str) -> float:
    """[byte] that a cache will still take, as far as it is known; 0 where it is there, or its videos are not."""
    if (layout.cache_dir(key) / "cache.json").exists():
        return 0.0
    cached, data = params.preprocess, params.benchmarks[key].data
    path = layout.manifest_dir(key) / "manifest.parquet"
    pixels = 0.0  # of all frames, after the shorter side is brought to short_side
    if path.exists():
        try:
            table = manifest.load(path, columns=["split", "frames_decoded", "width", "height"])
        except EverestError:  # the stage says it
            return 0.0
        for row in table.to_pylist():
            low = min(row["width"], row["height"])
            if row["split"] != "unused" and low:
                scale = min(1.0, cached.short_side / low)
                pixels += row["frames_decoded"] * row["width"] * row["height"] * scale**2
    elif data.source.kind == "generated":
        source = data.source
        videos = source.train + source.val + source.test
        pixels = videos * source.frames * min(source.size, cached.short_side) ** 2
    step = data.frame_step if isinstance(data.frame_step, int) else 1
    kept = cached.keep_every if cached.frames == "every" else step if cached.frames == "informative" else 1
    size = pixels / kept * (3 if cached.store == "raw" else JPEG_BYTES_PER_PIXEL)
    store = layout.saved_dir("preprocess", key, "shards")
    begun = sum(file.stat().st_size for file in store.glob("*.arrow")) if store.exists() else 0
    return max(0.0, size - begun)
