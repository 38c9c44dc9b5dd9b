"""Checkpoints that are whole or absent: safetensors and JSON, SHA-256 in a manifest written last.

A checkpoint is a folder `step-000000050`. It appears and goes as a whole (pipeline.system.files), so that a crash at
any moment leaves the earlier ones untouched. Whatever is read is compared with the manifest first: a checkpoint with a
wrong hash is reported and the one before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError

from pipeline.errors import EverestError
from pipeline.layout import checkpoint_dir, checkpoint_steps
from pipeline.system.files import atomic_folder, remove_folder
from pipeline.training.snapshot import read_tensors, write_tensors

log = logging.getLogger(__name__)

FORMAT = "everest-checkpoint-1"

#: file stem -> tensor name -> tensor
Tensors = dict[str, dict[str, torch.Tensor]]


class FileRecord(TypedDict):
    """SHA-256 and length [byte] of a checkpoint's file."""

    sha256: str
    bytes: int


class Manifest(TypedDict):
    """manifest.json: a checkpoint's files by name, its score where it was validated, and the SHA-256 of the rest."""

    format: str
    step: int
    score: float | None
    files: dict[str, FileRecord]
    sha256: str


class CorruptCheckpoint(EverestError):
    """A checkpoint's bytes are not those that were written."""


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint, on the CPU."""

    step: int
    tensors: Tensors
    state: dict[str, object]


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
        root: their folder; created if missing.
        keep: how many of the newest stay (at least 2, so that one damaged copy never ends a run). The one
            with the best score stays besides.
    """

    def __init__(self, root: Path, keep: int = 3) -> None:
        if keep < 2:
            raise ValueError(f"keep = {keep}: at least 2 checkpoints must remain. Cure: keep >= 2.")
        self.root = root
        self.keep = keep
        self.seconds_waited = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        root.mkdir(parents=True, exist_ok=True)

    # -- writing ------------------------------------------------------------------------------------

    def save(self, step: int, tensors: Tensors, state: Mapping[str, object], score: float | None = None) -> None:
        """Write a checkpoint in the background; `tensors` must be private CPU copies.

        Waits for the previous one if that is still being written, and raises if it failed.
        """
        began = time.perf_counter()
        self.wait()
        self._thread = threading.Thread(
            target=self._guarded, args=(step, tensors, state, score), name="checkpoint", daemon=True
        )
        self._thread.start()
        self.seconds_waited += time.perf_counter() - began

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            EverestError: the last checkpoint could not be written; earlier ones are intact.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise EverestError(
                f"a checkpoint could not be written to {self.root}: {error}. Earlier checkpoints there are intact. "
                "Cure: free disk space or mend the folder's permissions, then start again to continue."
            ) from error

    def _guarded(self, step: int, tensors: Tensors, state: Mapping[str, object], score: float | None) -> None:
        try:
            self.write(step, tensors, state, score)
        except BaseException as error:  # noqa: BLE001 - raised in the training thread by wait()
            self._error = error

    def write(self, step: int, tensors: Tensors, state: Mapping[str, object], score: float | None = None) -> Path:
        """Write a checkpoint now; see :meth:`save`."""
        final = checkpoint_dir(self.root, step)
        with atomic_folder(final) as building:
            files: dict[str, FileRecord] = {}
            for stem, group in tensors.items():
                path = building / f"{stem}.safetensors"
                files[path.name] = {"sha256": write_tensors(path, group), "bytes": path.stat().st_size}
            files["state.json"] = _write_json(building / "state.json", state)
            manifest = {"format": FORMAT, "step": step, "score": score, "files": files}
            _write_json(building / "manifest.json", manifest)
        self._prune()
        return final

    def _prune(self) -> None:
        steps = self.steps()
        stay = set(steps[-self.keep :])
        best = self.best()
        if best is not None:
            stay.add(best)
        for step in steps:
            if step not in stay:
                remove_folder(checkpoint_dir(self.root, step))
        for left in [*self.root.glob(".*.tmp"), *self.root.glob(".*.old")]:
            shutil.rmtree(left, ignore_errors=True)

    # -- reading ------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps that have a checkpoint with a manifest, ascending. Their hashes are not checked here."""
        return checkpoint_steps(self.root)

    def best(self) -> int | None:
        """The step with the highest score; the earlier of equals; None where none has a score."""
        return next(iter(self._by_score()), None)

    def best_intact(self) -> int | None:
        """As `best`, of those whose every byte agrees with its manifest; damaged ones are named in the log."""
        for step in self._by_score():
            try:
                return self.load(step).step
            except CorruptCheckpoint as error:
                log.warning("%s Taking the next best.", error)
        return None

    def _by_score(self) -> list[int]:
        """The steps that have a score, the best first, the earlier of equals before the later."""
        scored = []
        for step in self.steps():
            with contextlib.suppress(CorruptCheckpoint):
                score = _manifest(checkpoint_dir(self.root, step))["score"]
                if score is not None:
                    scored.append((score, -step))
        return [-negative for _, negative in sorted(scored, reverse=True)]

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose every byte agrees with its manifest; damaged ones are named in the log."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except CorruptCheckpoint as error:
                log.warning("%s Falling back to the checkpoint before it.", error)
        return None

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint, comparing every file with the manifest.

        Raises:
            CorruptCheckpoint: a file is missing, or its bytes differ.
        """
        folder = checkpoint_dir(self.root, step)
        manifest = _manifest(folder)
        data = {name: _verified_bytes(folder / name, entry["sha256"]) for name, entry in manifest["files"].items()}
        state = json.loads(data.pop("state.json"))
        tensors = {n.removesuffix(".safetensors"): _tensors(folder / n, content) for n, content in data.items()}
        return Checkpoint(manifest["step"], tensors, state)


def _manifest(folder: Path) -> Manifest:
    try:
        manifest: Manifest = json.loads((folder / "manifest.json").read_bytes())
        rest = {name: manifest[name] for name in ("format", "step", "score", "files")}
        text = json.dumps(rest, sort_keys=True)
        if manifest["format"] != FORMAT or hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
            raise CorruptCheckpoint(f"{folder}: manifest.json is damaged or of another format.")
        if checkpoint_dir(folder.parent, manifest["step"]) != folder:
            raise CorruptCheckpoint(f"{folder}: the manifest is that of step {manifest['step']}.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{folder}: manifest.json cannot be read ({type(error).__name__}).") from error
    return manifest


def _verified_bytes(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read ({error.strerror}).") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CorruptCheckpoint(f"{path}: its SHA-256 is not the one in the manifest.")
    return content


def _tensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return read_tensors(content)
    except SafetensorError as error:
        raise CorruptCheckpoint(f"{path} is not a safetensors file ({error}).") from error


def _write_json(path: Path, value: Mapping[str, object]) -> FileRecord:
    """Write a record; a manifest (it has `files`) carries the hash of itself."""
    if "files" in value:
        value = {**value, "sha256": hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}
    content = json.dumps(value, indent=1).encode()
    path.write_bytes(content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
