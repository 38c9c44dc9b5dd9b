"""Fed: does the loader keep the device busy, from raw and from JPEG frames, by the number of its threads?"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

try:
    import simplejpeg
except ImportError:  # a bare machine
    simplejpeg = None

from pipeline.bench.gpu.checks import Check, expect
from pipeline.bench.gpu.setting import (
    MemoryVideos,
    Setting,
    Training,
    compile_parts,
    params_of,
    resident,
    task_of,
    texture,
)
from pipeline.bench.gpu.timing import median_seconds
from pipeline.bench.harness import Figures
from pipeline.data.arrays import U8

THREADS = (8, 16, 4, 2)
#: Steps at most, and [s] in which they are timed: so many that the first one's launches, which nothing hides, are few.
STEPS, SECONDS = 40, 5.0
#: Share of the clips a second that 8 threads may lose against clips that lie on the device.
LOST = 0.05
QUALITY = 90
#: What decodes a JPEG on the CPU: simplejpeg, as in the cache, where it is installed.
DECODER = "torchvision" if simplejpeg is None else "simplejpeg"


def checks(setting: Setting) -> Iterator[Check]:
    """Shards first, then each store with each number of threads, then the device's own decoder."""
    yield Check("write shards", 5, write)
    # What a training of one's own would do, and the loader's hardest.
    yield Check("raw, 8 threads, compiled", 15, partial(loading, store="raw", threads=8, compiled=True))
    for threads in THREADS if setting.cuda else (2,):
        for store in ("raw", "jpeg"):
            yield Check(f"{store}, {threads} threads", 8, partial(loading, store=store, threads=threads))
    yield Check("JPEG decoders", 4, decoders)


def write(setting: Setting) -> Figures:
    """Frames of moving textures as `.npy`: raw, and as JPEG of quality 90 one after the other with their offsets."""
    began = time.perf_counter()
    videos, length = (64, 61) if setting.cuda else (4, 2 * setting.frames)
    shape = (videos, length, setting.height, setting.width, 3)
    raw = np.lib.format.open_memmap(setting.work / "raw.npy", "w+", np.uint8, shape)

    def one(row: int) -> list[bytes]:
        raw[row] = texture(row, length, setting.height, setting.width)
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


def _encoded(frame: U8) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(frame).save(target, "JPEG", quality=QUALITY)
    return target.getvalue()


def decode(data: U8) -> U8:
    """One JPEG on the CPU."""
    if simplejpeg is not None:
        return cast("U8", simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False))
    from torchvision.io import ImageReadMode, decode_jpeg

    return cast("U8", decode_jpeg(torch.from_numpy(data.copy()), ImageReadMode.RGB).permute(1, 2, 0).numpy())


class JpegVideos(MemoryVideos):
    """The same videos, whose frames are decoded from JPEG."""

    def __init__(self, folder: Path, raw: MemoryVideos) -> None:
        super().__init__(raw.array, np.asarray(raw.labels), raw.short_side)
        self._data = np.load(folder / "jpeg.npy", mmap_mode="r")
        self._offsets = np.load(folder / "offsets.npy")

    def encoded(self, row: int, frame: int) -> U8:
        """The bytes of one frame."""
        place = row * self.num_frames(row) + frame
        data: U8 = self._data[self._offsets[place] : self._offsets[place + 1]]
        return data

    def fill(self, row: int, frame_indices: npt.ArrayLike, target_THWC: U8) -> None:
        height, width = self.size(row)
        for frame, target_HWC in zip(np.asarray(frame_indices), target_THWC, strict=True):
            target_HWC[:height, :width] = decode(self.encoded(row, int(frame)))


def _raw(setting: Setting) -> MemoryVideos:
    """The shards that `write` left."""
    frames = np.load(setting.work / "raw.npy", mmap_mode="r")
    return MemoryVideos(frames, np.arange(len(frames)) % 2, setting.height)


@cache
def _unfed(setting: Setting, compiled: bool) -> float:
    """[clip/s] of the same step with clips that lie on the device: what a loader can reach at most."""
    size, batch = _step_of(setting)
    training = resident(setting, "pretrain", params_of(setting, size, batch), compiled)
    return batch / median_seconds(training.step, setting.device, setting.count)


def _step_of(setting: Setting) -> tuple[str, int]:
    """Size and clips of the step that is fed."""
    return ("base", 256) if setting.cuda else ("tiny", 4)


def loading(setting: Setting, store: str, threads: int, compiled: bool = False) -> Figures:
    """The real loader and engine for some steps of base: clips a second, and what is lost against resident clips.

    `wait_percent` is the share of the time in which the training asked for a batch that was not there. It is not all
    that a loader costs: its threads and the one that launches kernels share the interpreter and the cores.
    """
    size, batch = _step_of(setting)
    params = params_of(setting, size, batch, compute__loader_workers=threads)
    raw = _raw(setting)
    source = raw if store == "raw" else JpegVideos(setting.work, raw)
    task = task_of(setting, "pretrain", params, source, times=-(-batch * (STEPS + 8) // len(source)))
    if compiled:
        compile_parts(setting, task)
    training = Training(setting, task)
    engine = training.engine
    training.losses(4)
    engine.spent = type(engine.spent)()
    engine._since = time.perf_counter()
    until, steps = time.monotonic() + (SECONDS if setting.cuda else 0.3), 0
    while steps < STEPS and (time.monotonic() < until or steps < 2):
        engine.advance(training.batches, 0)
        steps += 1
    engine._settle(0, at_once=True)
    engine._count_time()
    spent = engine.spent
    rate, best = steps * batch / spent.train, _unfed(setting, compiled)
    lost = 1 - rate / best
    read = batch * setting.frames * setting.height * setting.width * 3
    values: Figures = {
        "store": store, "threads": threads, "compiled": compiled, "clips": batch, "steps": steps,
        "clips_per_second": round(rate, 1), "resident_clips_per_second": round(best, 1),
        "lost_percent": round(100 * lost, 1), "wait_percent": round(100 * spent.loader / max(spent.train, 1e-9), 2),
        "upload_gb_per_s": round(rate / batch * read / 1e9, 3),
        "pinned": setting.cuda, "decoder": DECODER if store == "jpeg" else "none",
    }  # fmt: skip
    held = not setting.cuda or threads != 8 or lost <= LOST
    return expect(held, f"at most {100 * LOST:.0f} % fewer clips a second than from the device", values)


def decoders(setting: Setting) -> Figures:
    """Frames a second of one core and of the device's own decoder (nvJPEG)."""
    from torchvision.io import ImageReadMode, decode_jpeg

    source = JpegVideos(setting.work, _raw(setting))
    rows, length, count = len(source), source.num_frames(0), 256 if setting.cuda else 8
    pictures = [np.array(source.encoded(number % rows, number // rows % length)) for number in range(count)]
    began = time.perf_counter()
    for picture in pictures:
        decode(picture)
    core = count / (time.perf_counter() - began)
    values: Figures = {"frames": count, "decoder": DECODER, "frames_per_second_of_a_core": round(core, 1)}
    if not setting.cuda:
        return values | {"nvjpeg": "no GPU"}
    tensors = [torch.from_numpy(picture) for picture in pictures]

    def run() -> list[torch.Tensor]:
        decoded: list[torch.Tensor] = decode_jpeg(tensors, ImageReadMode.RGB, device=setting.device)
        return decoded

    seconds = median_seconds(run, setting.device, 5, 1)
    expected = torch.from_numpy(decode(pictures[0])).permute(2, 0, 1).int()
    difference = (run()[0].cpu().int() - expected).abs()
    return values | {
        "nvjpeg_frames_per_second": round(count / seconds, 1),
        "nvjpeg_clips_per_second": round(count / seconds / setting.frames, 1),
        "nvjpeg_mean_grey_levels": round(float(difference.float().mean()), 3),
    }
