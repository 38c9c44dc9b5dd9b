"""`everest bench step`: our pre-training step against Hugging Face's VideoMAE and a plain EVEREST.

All are measured in one run. Each contestant lives in a process of its own and takes its turn for one step a round, so
that a busy machine slows all of them alike and peak memory is each one's own. A step is forward, backward and
optimizer.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
from typing import Any, NamedTuple

from pipeline.bench.contestants import (
    DECODER_DEPTH,
    FRAMES,
    KEEP,
    RESOLUTION,
    VISIBLE,
    Setting,
    product_shapes,
    serve,
)
from pipeline.errors import EverestError, InputError

CONTESTANTS = ("ours", "huggingface", "plain")
#: Bare products beside them: the linears of our step, and a large square one.
YARDSTICKS = ("matmul", "peak")
PRECISIONS = ("fp32", "bf16")
#: What the rows are.
MEANING = {
    "ours": "EVEREST keep 0.3 visible 0.1, fused AdamW, freed memory kept on a CPU: as in a training of this project",
    "huggingface": "transformers VideoMAEForPreTraining, tube 0.9, same size, decoder depth 4, fused AdamW",
    "plain": "the same EVEREST in plain eager code, default AdamW",
}


class Reply(NamedTuple):
    """Of one turn: seconds on the clock, seconds of CPU time, peak memory above the idle process."""

    wall: float
    cpu: float
    peak_gib: float


def command(
    size: str = "base",
    batch: int = 4,
    steps: int = 5,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = False,
    same_allocator: bool = False,
    contestants: tuple[str, ...] = CONTESTANTS,
) -> dict[str, Any]:
    """Measure and return medians, ratios and the share of the matmul rate measured in the same run.

    `compiled` compiles ours alone; `same_allocator` lets all contestants keep freed memory on a CPU. Raises
    InputError for an unknown size or device, EverestError when a contestant fails (out of memory, transformers not
    installed).
    """
    import torch

    from models.registry import architecture

    try:
        architecture(size, pretrain=True)
    except ValueError as error:
        raise InputError(str(error)) from None
    if batch < 1 or steps < 1:
        raise InputError(f"batch = {batch}, steps = {steps}: both must be at least 1. Cure: 4 and 5.")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch sees no GPU. Cure: device 'cpu', or `everest doctor`.")
    load_before = os.getloadavg()[0]
    setting = Setting(size, batch, device, threads, compiled, same_allocator)
    workers = {name: _Worker(name, setting) for name in (*contestants, *YARDSTICKS)}
    try:
        replies = _rounds(workers, steps)
    finally:
        for worker in workers.values():
            worker.close()
    rows = [_row(name, precision, replies[name, precision], size, batch) for name, precision in replies]
    bare = {(r["model"], r["precision"]): r for r in rows if r["model"] in YARDSTICKS}
    steps_rows = [r for r in rows if r["model"] not in YARDSTICKS]
    return {
        "size": size,
        "batch": batch,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU {platform.machine()}",
        "threads": threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "compiled": compiled,
        "same_allocator": same_allocator,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "meaning": MEANING,
        "steps": [r | _shares(r, bare) for r in steps_rows],
        "bare_products": list(bare.values()),
        "ratios": _ratios(steps_rows),
    }


def _rounds(workers: dict[str, _Worker], steps: int) -> dict[tuple[str, str], list[Reply]]:
    """One step of every contestant and precision a round; the first round warms up and is not counted."""
    turns = [(name, precision) for precision in PRECISIONS for name in workers]
    replies: dict[tuple[str, str], list[Reply]] = {turn: [] for turn in turns}
    for round_number in range(steps + 1):
        for name, precision in turns:
            reply = workers[name].turn(precision)
            if round_number:
                replies[name, precision].append(reply)
    return replies


def step_multiply_adds(name: str, size: str, batch: int) -> int:
    """Multiply-adds of one step that the contestant really does.

    The gradient of pixels is never taken, and ours takes that of the embedding for visible tokens only.
    """
    from models.cost import multiply_adds

    if name in YARDSTICKS:
        return sum(m * k * n * count * products for m, k, n, count, products in product_shapes(name, size, batch))
    tube = name == "huggingface"
    cost = multiply_adds(
        size,
        "pretrain",
        strategy="tube" if tube else "everest",
        keep_ratio=KEEP,
        visible_ratio=VISIBLE,
        frames=FRAMES,
        resolution=RESOLUTION,
        decoder_depth=DECODER_DEPTH,
    )
    tokens = FRAMES // 2 * (RESOLUTION // 16) ** 2
    embed_back = cost.embed * cost.encoder_tokens // tokens if name == "ours" else cost.embed
    return batch * (3 * (cost.encoder + cost.decoder + cost.head) + cost.embed + embed_back)


def _row(name: str, precision: str, replies: list[Reply], size: str, batch: int) -> dict[str, Any]:
    wall = statistics.median(reply.wall for reply in replies)
    return {
        "model": name,
        "precision": precision,
        "step_seconds": round(wall, 4),
        "step_seconds_best": round(min(reply.wall for reply in replies), 4),
        "cpu_seconds": round(statistics.median(reply.cpu for reply in replies), 4),
        "clips_per_second": round(batch / wall, 3),
        "peak_memory_gib": round(max(reply.peak_gib for reply in replies), 3),
        "gmacs_per_step": round(step_multiply_adds(name, size, batch) / 1e9, 2),
    }


def _shares(row: dict[str, Any], bare: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The step's rate over that of bare products measured in the same rounds.

    The products have the same shapes, or are one large product. From medians of the clock, and again from CPU time,
    which a busy machine distorts less.
    """
    shares: dict[str, Any] = {}
    for name in YARDSTICKS:
        yard = bare[name, row["precision"]]
        work = row["gmacs_per_step"] / yard["gmacs_per_step"]
        for suffix, key in (("", "step_seconds"), ("_cpu", "cpu_seconds")):
            shares[f"share_of_{name}{suffix}"] = round(work * yard[key] / row[key], 3)
    return shares


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times faster ours in a precision is than each of the others in theirs."""
    return [
        {
            "ours": our_row["precision"],
            "against": f"{other['model']} {other['precision']}",
            "times_faster": round(other["step_seconds"] / our_row["step_seconds"], 2),
            "times_faster_best": round(other["step_seconds_best"] / our_row["step_seconds_best"], 2),
            "times_less_cpu_time": round(other["cpu_seconds"] / our_row["cpu_seconds"], 2),
        }
        for our_row in rows
        if our_row["model"] == "ours"
        for other in rows
        if other["model"] != "ours"
    ]


class _Worker:
    """A contestant in its process."""

    def __init__(self, name: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, name, setting), daemon=True)
        self.process.start()
        far.close()

    def turn(self, precision: str) -> Reply:
        try:
            self.connection.send(precision)
            answer = self.connection.recv()
        except (EOFError, BrokenPipeError):
            self.process.join(5)
            raise EverestError(
                f"bench step: {self.name} died (exit code {self.process.exitcode}), probably out of memory. "
                "Cure: a smaller --batch or --size."
            ) from None
        if isinstance(answer, str):
            raise EverestError(f"bench step: {self.name} failed: {answer}. Cure: a smaller --batch, or the dev extras.")
        return Reply(*answer)

    def close(self) -> None:
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
