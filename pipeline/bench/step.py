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
from dataclasses import asdict, dataclass
from functools import partial

from pipeline.bench.contestants import YARDSTICKS, Contest, Reply, serve, step_multiply_adds
from pipeline.bench.harness import Figures, expect_at_least, take_turns
from pipeline.errors import EverestError, InputError

CONTESTANTS = ("ours", "huggingface", "plain")
PRECISIONS = ("fp32", "bf16")
#: What the rows are.
MEANING = {
    "ours": "EVEREST keep 0.3 visible 0.1, fused AdamW, freed memory kept on a CPU: as in a training of this project",
    "huggingface": "transformers VideoMAEForPreTraining, tube 0.9, same size, decoder depth 4, fused AdamW",
    "plain": "the same EVEREST in plain eager code, default AdamW",
}


@dataclass(frozen=True)
class Row:
    """One contestant in one precision, as measured: shares and ratios are of these, what is printed is rounded."""

    model: str
    precision: str
    step_seconds: float
    step_seconds_best: float
    cpu_seconds: float
    clips_per_second: float
    peak_memory_gib: float
    gmacs_per_step: float

    def printed(self) -> Figures:
        """To the microsecond: a large GPU has a product done in some tenths of a millisecond."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def command(
    size: str = "base",
    batch: int = 4,
    steps: int = 5,
    device: str = "auto",
    threads: int | None = None,
    compiled: bool = False,
    same_allocator: bool = False,
) -> Figures:
    """Measure and return medians, ratios and the share of the matmul rate measured in the same run.

    `compiled` compiles ours alone; `same_allocator` lets all contestants keep freed memory on a CPU. Raises
    InputError for an unknown size or device or a number below 1, EverestError when a contestant fails (out of memory,
    transformers not installed).
    """
    import torch

    from models.registry import architecture

    try:
        architecture(size, pretrain=True)
    except ValueError as error:
        raise InputError(str(error)) from None
    expect_at_least(1, batch=batch, steps=steps, threads=1 if threads is None else threads)
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device = {device!r}: expected auto, cpu or cuda. Cure: leave the option out.")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch sees no GPU. Cure: device 'cpu', or `everest doctor`.")
    load_before = os.getloadavg()[0]
    contest = Contest(size, batch, device, threads, compiled, same_allocator)
    workers = {name: _Worker(name, contest) for name in (*CONTESTANTS, *YARDSTICKS)}
    try:
        replies = take_turns(
            {(name, how): partial(workers[name].turn, how) for how in PRECISIONS for name in workers}, steps
        )
    finally:
        for worker in workers.values():
            worker.close()
    all_rows = [_row(name, precision, turns, contest) for (name, precision), turns in replies.items()]
    rows = [row for row in all_rows if row.model in CONTESTANTS]
    bare = [row for row in all_rows if row.model in YARDSTICKS]
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
        "steps": [row.printed() | _shares(row, bare) for row in rows],
        "bare_products": [row.printed() for row in bare],
        "ratios": _ratios(rows),
    }


def _row(name: str, precision: str, replies: list[Reply], contest: Contest) -> Row:
    wall = statistics.median(reply.wall for reply in replies)
    return Row(
        model=name,
        precision=precision,
        step_seconds=wall,
        step_seconds_best=min(reply.wall for reply in replies),
        cpu_seconds=statistics.median(reply.cpu for reply in replies),
        clips_per_second=contest.batch / wall,
        peak_memory_gib=max(reply.peak_gib for reply in replies),
        gmacs_per_step=step_multiply_adds(name, contest.size, contest.batch, contest.device) / 1e9,
    )


def _shares(row: Row, bare: list[Row]) -> dict[str, float]:
    """The step's rate over that of bare products measured in the same rounds.

    The products have the same shapes, or are one large product. From medians of the clock, and again from CPU time,
    which a busy machine distorts less.
    """
    shares = {}
    for yard in bare:
        if yard.precision == row.precision:
            work, name = row.gmacs_per_step / yard.gmacs_per_step, f"share_of_{yard.model}"
            shares[name] = round(work * yard.step_seconds / row.step_seconds, 3)
            shares[f"{name}_cpu"] = round(work * yard.cpu_seconds / row.cpu_seconds, 3)
    return shares


def _ratios(rows: list[Row]) -> list[Figures]:
    """How many times faster ours in a precision is than each of the others in theirs."""
    return [
        {
            "ours": ours.precision,
            "against": f"{other.model} {other.precision}",
            "times_faster": round(other.step_seconds / ours.step_seconds, 2),
            "times_faster_best": round(other.step_seconds_best / ours.step_seconds_best, 2),
            "times_less_cpu_time": round(other.cpu_seconds / ours.cpu_seconds, 2),
        }
        for ours in rows
        if ours.model == "ours"
        for other in rows
        if other.model != "ours"
    ]


class _Worker:
    """A contestant in its process."""

    def __init__(self, name: str, contest: Contest) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, name, contest), daemon=True)
        self.process.start()
        far.close()

    def turn(self, precision: str, _: int) -> Reply:
        """One step.

        Raises:
            EverestError: it failed, or its process died.
        """
        try:
            self.connection.send(precision)
            answer: Reply | str = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            raise EverestError(
                f"bench step: {self.name} died (exit code {self.process.exitcode}), probably out of memory. "
                "Cure: a smaller --batch or --size."
            ) from None
        if isinstance(answer, str):
            raise EverestError(f"bench step: {self.name} failed: {answer}. Cure: a smaller --batch, or the dev extras.")
        return answer

    def close(self) -> None:
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
