"""What takes part in `everest bench step`, each in a process of its own: build it, then one step a message.

Shapes of matrices: M rows (tokens), K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.bench.harness import autoencoder, process_bytes, timed

if TYPE_CHECKING:
    from torch import Tensor, nn

FRAMES, RESOLUTION, DECODER_DEPTH = 16, 224, 4
KEEP, VISIBLE = 0.3, 0.1
PLACES, SLOTS = (RESOLUTION // 16) ** 2, FRAMES // 2
#: Bare products beside the models: the linears of our step, and a large square one.
YARDSTICKS = ("matmul", "peak")


class Contest(NamedTuple):
    """What all contestants share."""

    size: str
    batch: int
    device: str
    threads: int | None
    compiled: bool
    same_allocator: bool


class Reply(NamedTuple):
    """Of one turn: seconds on the clock, seconds of CPU time, peak memory above the idle process."""

    wall: float
    cpu: float
    peak_gib: float


class Product(NamedTuple):
    """A matrix product of a step: its sides, how many layers have it, and with both gradients (3) or alone (1)."""

    m: int
    k: int
    n: int
    layers: int
    products: int


def serve(connection: Connection, name: str, contest: Contest) -> None:
    """Answer each precision received with a :class:`Reply`, or with an error's text."""
    import torch

    from pipeline.training.allocator import keep_freed_memory

    device = contest.device
    if device == "cpu" and (name == "ours" or contest.same_allocator):
        keep_freed_memory()  # as the ranks of a training do
    if contest.threads:
        torch.set_num_threads(contest.threads)
    idle = torch.cuda.memory_allocated() if device == "cuda" else process_bytes("VmRSS") or 0
    step: Callable[[str], None] | None = None

    def turn(step: Callable[[str], None], precision: str) -> None:
        step(precision)
        if device == "cuda":
            torch.cuda.synchronize()

    while True:
        try:
            precision = connection.recv()
        except EOFError:
            return
        try:
            step = step or contestant(name, contest)
            _reset_peak(device)
            spent = timed(partial(turn, step, precision))
            peak = torch.cuda.max_memory_allocated() if device == "cuda" else process_bytes("VmHWM") or idle
            connection.send(Reply(*spent, (peak - idle) / 2**30))
        except (RuntimeError, ImportError, MemoryError) as error:
            connection.send(str(error).splitlines()[0])
            return


def _reset_peak(device: str) -> None:
    import torch

    clear = Path("/proc/self/clear_refs")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear.exists():
        clear.write_text("5")  # the kernel then takes the resident peak anew


def contestant(name: str, contest: Contest) -> Callable[[str], None]:
    """What makes one step in a precision, fp32 or bf16."""
    import torch

    torch.manual_seed(0)
    if name in YARDSTICKS:
        return _products(product_shapes(name, contest.size, contest.batch, contest.device), contest.device)
    model, forward = _build(name, contest)
    fused = None if name == "plain" else True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)

    def step(precision: str) -> None:
        with torch.autocast(contest.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _build(name: str, contest: Contest) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model, and its loss of the same clips each time."""
    import torch

    size, device = contest.size, contest.device
    clip = torch.randn(contest.batch, 3, FRAMES, RESOLUTION, RESOLUTION, device=device)
    if name == "ours":
        ours = autoencoder(size, keep_ratio=KEEP, visible_ratio=VISIBLE, decoder_depth=DECODER_DEPTH).to(device)
        if contest.compiled:
            ours.compile_parts(fullgraph=True, dynamic=False)
        return ours, lambda: ours(clip)
    if name == "plain":
        from models.selection import Grid
        from pipeline.bench.plain import PlainAutoencoder

        grid = Grid(SLOTS, RESOLUTION // 16, RESOLUTION // 16)
        plain = PlainAutoencoder(size, grid, KEEP, VISIBLE, DECODER_DEPTH).to(device).train()
        return plain, lambda: plain(clip)
    from transformers.models.videomae import VideoMAEConfig, VideoMAEForPreTraining

    from models.convert import huggingface_config
    from models.registry import architecture

    config = huggingface_config(architecture(size, pretrain=True), {"decoder_depth": DECODER_DEPTH})
    values = {key: value for key, value in config.items() if key != "architectures"}
    other: nn.Module = VideoMAEForPreTraining(VideoMAEConfig.from_dict(values)).train()
    other.to(device)
    pixels = clip.transpose(1, 2).contiguous()
    hidden = torch.rand(contest.batch, PLACES).argsort(1) < int(0.9 * PLACES)
    masked = hidden[:, None].expand(-1, SLOTS, -1).flatten(1).to(device)
    return other, lambda: other(pixels, bool_masked_pos=masked).loss


def step_multiply_adds(name: str, size: str, batch: int, device: str = "cpu") -> int:
    """Multiply-adds of one step that the contestant really does.

    The gradient of pixels is never taken, and ours takes that of the embedding for visible tokens only.
    """
    from models.cost import multiply_adds

    if name in YARDSTICKS:
        return sum(p.m * p.k * p.n * p.layers * p.products for p in product_shapes(name, size, batch, device))
    cost = multiply_adds(
        size, "pretrain", strategy="tube" if name == "huggingface" else "everest", keep_ratio=KEEP,
        visible_ratio=VISIBLE, frames=FRAMES, resolution=RESOLUTION, decoder_depth=DECODER_DEPTH,
    )  # fmt: skip
    embed_back = cost.embed * cost.encoder_tokens // (SLOTS * PLACES) if name == "ours" else cost.embed
    return batch * (3 * (cost.encoder + cost.decoder + cost.head) + cost.embed + embed_back)


def product_shapes(name: str, size: str, batch: int, device: str) -> list[Product]:
    """The bare products: "matmul" has the linears of our step, "peak" one large square product."""
    from models.cost import multiply_adds
    from models.registry import SIZES

    if name == "peak":
        side = 8192 if device == "cuda" else 2048  # the small one would time how fast a GPU is told of it
        return [Product(side, side, side, 8, 1)]
    s = SIZES[size]
    cost = multiply_adds(size, "pretrain", keep_ratio=KEEP, visible_ratio=VISIBLE)
    visible, kept = batch * cost.encoder_tokens, batch * cost.decoder_tokens
    shapes = [Product(batch * SLOTS * PLACES, 1536, s.embed_dim, 1, 1)]
    for rows, width, depth in ((visible, s.embed_dim, s.depth), (kept, s.decoder_embed_dim, DECODER_DEPTH)):
        shapes += [Product(rows, width, out * width, depth, 3) for out in (3, 1, 4)]
        shapes += [Product(rows, 4 * width, width, depth, 3)]
    shapes += [
        Product(visible, s.embed_dim, s.decoder_embed_dim, 1, 3),
        Product(kept - visible, s.decoder_embed_dim, 1536, 1, 3),
    ]
    return shapes


def _products(shapes: list[Product], device: str) -> Callable[[str], None]:
    import torch

    operands = {
        precision: [
            tuple(torch.randn(a, b, device=device, dtype=dtype) for a, b in ((p.m, p.k), (p.n, p.k), (p.m, p.n)))
            for p in shapes
        ]
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }

    def step(precision: str) -> None:
        for (x_MK, weight_NK, grad_MN), product in zip(operands[precision], shapes, strict=True):
            for _ in range(product.layers):
                torch.nn.functional.linear(x_MK, weight_NK)
                if product.products == 3:
                    torch.mm(grad_MN, weight_NK)
                    torch.mm(grad_MN.t(), x_MK)

    return step
