"""Fed: does the loader keep the device busy, from raw and from JPEG frames, by the number of its threads?"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import simplejpeg
except ImportError:  # a bare machine
    simplejpeg = None

from pipeline.bench.gpu.checks import Check, expect
from pipeline.bench.gpu.setting import MemoryVideos, Setting, engine_of, params_of, task_of
from pipeline.bench.gpu.timing import median_seconds

THREADS = (8, 16, 4, 2)
#: Share of the step for which the device may wait, with 8 threads.
WAIT = 0.05
QUALITY = 90


def checks(setting: Setting) -> Iterator[Check]:
    """Shards first, then each store with each number of threads, then the device's own decoder."""
    threads = THREADS if setting.cuda else (2,)
    yield Check("write shards", lambda: write(setting), setting.needs(5))
    for count in threads:
        for store in ("raw", "jpeg"):
            yield Check(
                f"{store}, {count} threads",
                lambda store=store, count=count: loading(setting, store, count),  # type: ignore[misc]
                setting.needs(8),
            )
    yield Check("JPEG decoders", lambda: decoders(setting), setting.needs(4))


def _shape(setting: Setting) -> tuple[int, int, int, int, int]:
    videos, length = (64, 61) if setting.cuda else (4, 2 * setting.frames)
    return videos, length, setting.height, setting.width, 3


def write(setting: Setting) -> dict[str, Any]:
    """Frames of moving textures as `.npy`: raw, and as JPEG of quality 90 one after the other with their offsets."""
    began = time.perf_counter()
    videos, length, height, width, _ = shape = _shape(setting)
    raw = np.lib.format.open_memmap(setting.work / "raw.npy", "w+", np.uint8, shape)

    def one(row: int) -> list[bytes]:
        raw[row] = texture(row, length, height, width)
        return [_encoded(frame) for frame in raw[row]]

    with ThreadPoolExecutor(16) as pool:
        encoded = [picture for pictures in pool.map(one, range(videos)) for picture in pictures]
    raw.flush()
    sizes = np.asarray([len(picture) for picture in encoded], dtype=np.int64)
    np.save(setting.work / "jpeg.npy", np.frombuffer(b"".join(encoded), np.uint8))
    np.save(setting.work / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
    return {
        "videos": videos, "frames": len(encoded), "raw_gb": round(raw.nbytes / 1e9, 3),
        "jpeg_bytes_per_frame": int(sizes.mean()), "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def texture(seed: int, length: int, height: int, width: int) -> np.ndarray:
    """A smooth picture with grain that pans: JPEGs of it are about as large as a film's."""
    rng = np.random.default_rng(seed)
    size = (height + 2 * length, width + 2 * length)
    coarse = torch.from_numpy(rng.random((1, 3, 20, 24), dtype=np.float32))
    wide = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).mul(255).numpy()
    wide = wide + rng.normal(0, 6, (*size, 1)).astype(np.float32)
    wide = np.clip(wide, 0, 255).astype(np.uint8)
    return np.stack([wide[2 * t : 2 * t + height, t : t + width] for t in range(length)])


def _encoded(frame: np.ndarray) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(frame).save(target, "JPEG", quality=QUALITY)
    return target.getvalue()


def decode(data: np.ndarray) -> np.ndarray:
    """One JPEG on the CPU: with simplejpeg, as the cache does, where it is installed; else with torchvision."""
    if simplejpeg is not None:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.from_numpy(data.copy()), ImageReadMode.RGB).permute(1, 2, 0).numpy()


@dataclass
class JpegVideos:
    """The videos of a folder whose frames are JPEGs; the rest as of raw ones."""

    folder: Path
    raw: MemoryVideos
    grid: int = 1
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = self.raw.ids
        self.short_side = self.raw.short_side
        self._data = np.load(self.folder / "jpeg.npy", mmap_mode="r")
        self._offsets = np.load(self.folder / "offsets.npy")

    def __len__(self) -> int:
        return len(self.raw)

    def num_frames(self, row: int) -> int:
        return self.raw.num_frames(row)

    def size(self, row: int) -> tuple[int, int]:
        return self.raw.size(row)

    def label(self, row: int) -> int:
        return self.raw.label(row)

    def rows(self, split: str | None = None) -> list[int]:
        return self.raw.rows(split)

    def fill(self, row: int, frame_indices: Any, target_THWC: Any) -> None:
        height, width = self.size(row)
        for frame, target in zip(frame_indices, target_THWC, strict=True):
            target[:height, :width] = decode(self.picture(row, int(frame)))

    def picture(self, row: int, frame: int) -> np.ndarray:
        place = row * self.raw.num_frames(row) + frame
        return self._data[self._offsets[place] : self._offsets[place + 1]]

    def maps(self, row: int) -> None:
        return None


def source_of(setting: Setting, store: str) -> Any:
    """The shards that `write` left."""
    frames = np.load(setting.work / "raw.npy", mmap_mode="r")
    raw = MemoryVideos(frames, np.arange(len(frames)) % 2, setting.height)
    return raw if store == "raw" else JpegVideos(setting.work, raw)


def loading(setting: Setting, store: str, threads: int) -> dict[str, Any]:
    """The real loader and engine for some steps of base: the share of the step for which the device waited."""
    size, batch = ("base", 256) if setting.cuda else ("tiny", 4)
    params = params_of(setting, size, batch, compute__loader_workers=threads)
    source = source_of(setting, store)
    task = task_of(setting, "pretrain", params, source, times=-(-batch * 12 // len(source)))
    engine = engine_of(setting, task)
    engine.model.train()
    batches = iter(task.loader.epoch(0))
    for _ in range(2):
        engine.advance(batches, 0, at_once=True)
    engine.spent = type(engine.spent)()
    engine._since = time.perf_counter()
    until, steps = time.monotonic() + (5.0 if setting.cuda else 0.3), 0
    while steps < 8 and (time.monotonic() < until or steps < 2):
        engine.advance(batches, 0)
        steps += 1
    engine._settle(0, at_once=True)
    engine._count_time()
    spent = engine.spent
    wait = spent.loader / max(spent.train, 1e-9)
    read = batch * setting.frames * setting.height * setting.width * 3
    values = {
        "store": store, "threads": threads, "clips": batch, "steps": steps,
        "clips_per_second": round(steps * batch / spent.train, 1), "wait_percent": round(100 * wait, 2),
        "upload_gb_per_s": round(steps * read / spent.train / 1e9, 3),
        "pinned": bool(setting.cuda), "decoder": _decoder() if store == "jpeg" else "none",
    }  # fmt: skip
    if setting.cuda and threads == 8:
        return expect(wait <= WAIT, f"at most {100 * WAIT:.0f} % of the step waiting", values)
    return values


def _decoder() -> str:
    return "torchvision" if simplejpeg is None else "simplejpeg"


def decoders(setting: Setting) -> dict[str, Any]:
    """Frames a second of one core and of the device's own decoder (nvJPEG)."""
    from torchvision.io import ImageReadMode, decode_jpeg

    source = source_of(setting, "jpeg")
    rows, length = len(source), source.num_frames(0)
    count = 256 if setting.cuda else 8
    places = [(number % rows, number // rows % length) for number in range(count)]
    pictures = [np.array(source.picture(*place)) for place in places]
    began = time.perf_counter()
    for picture in pictures:
        decode(picture)
    core = count / (time.perf_counter() - began)
    found: dict[str, Any] = {"frames": count, "decoder": _decoder(), "frames_per_second_of_a_core": round(core, 1)}
    if not setting.cuda:
        return found | {"nvjpeg": "no GPU"}
    tensors = [torch.from_numpy(picture) for picture in pictures]

    def run() -> Any:
        return decode_jpeg(tensors, ImageReadMode.RGB, device=setting.device)

    seconds = median_seconds(run, setting.device, 5, 1)
    expected = torch.from_numpy(decode(pictures[0])).permute(2, 0, 1).int()
    difference = (run()[0].cpu().int() - expected).abs()
    return found | {
        "nvjpeg_frames_per_second": round(count / seconds, 1),
        "nvjpeg_clips_per_second": round(count / seconds / setting.frames, 1),
        "nvjpeg_mean_grey_levels": round(float(difference.float().mean()), 3),
    }
