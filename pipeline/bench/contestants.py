"""What takes part in `everest bench step`, each in a process of its own: build it, then one step a message.

Shapes of matrices: M rows (tokens), K inputs, N outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

FRAMES, RESOLUTION, DECODER_DEPTH = 16, 224, 4
KEEP, VISIBLE = 0.3, 0.1
PLACES, SLOTS = (RESOLUTION // 16) ** 2, FRAMES // 2


class Setting(NamedTuple):
    """What all contestants share."""

    size: str
    batch: int
    device: str
    threads: int | None
    compiled: bool
    same_allocator: bool


def serve(connection: Connection, name: str, setting: Setting) -> None:
    """Answer each precision received with (wall seconds, CPU seconds, peak GiB above idle), or with an error's text."""
    import torch

    from pipeline.training.allocator import keep_freed_memory

    if setting.device == "cpu" and (name == "ours" or setting.same_allocator):
        keep_freed_memory()  # as the ranks of a training do
    if setting.threads:
        torch.set_num_threads(setting.threads)
    idle = _memory(setting.device)
    step: Callable[[str], None] | None = None
    while True:
        try:
            precision = connection.recv()
        except EOFError:
            return
        try:
            step = step or contestant(name, setting)
            _reset_peak(setting.device)
            cpu, wall = time.process_time(), time.perf_counter()
            step(precision)
            if setting.device == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            connection.send((*spent, (_peak(setting.device) - idle) / 2**30))
        except (RuntimeError, ImportError, MemoryError) as error:
            connection.send(str(error).splitlines()[0])
            return


def contestant(name: str, setting: Setting) -> Callable[[str], None]:
    import torch

    torch.manual_seed(0)
    if name in ("matmul", "peak"):
        return _products(product_shapes(name, setting.size, setting.batch), setting.device)
    model, forward = _build(name, setting)
    fused = None if name == "plain" else True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)

    def step(precision: str) -> None:
        with torch.autocast(setting.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _build(name: str, setting: Setting) -> tuple[Any, Callable[[], Any]]:
    import timm
    import torch

    import models
    from models.convert import huggingface_config
    from models.selection import Grid

    size, batch, device = setting.size, setting.batch, setting.device
    clip = torch.randn(batch, 3, FRAMES, RESOLUTION, RESOLUTION, device=device)
    architecture = models.architecture(size, pretrain=True)
    if name == "ours":
        kwargs: dict[str, Any] = {
            "keep_ratio": KEEP,
            "visible_ratio": VISIBLE,
            "decoder_depth": DECODER_DEPTH,
        }
        model: Any = timm.create_model(architecture, **kwargs).to(device).train()
        if setting.compiled:
            model.compile_parts(fullgraph=True, dynamic=False)
        return model, lambda: model(clip)
    if name == "plain":
        from pipeline.bench.plain import PlainAutoencoder

        grid = Grid(SLOTS, RESOLUTION // 16, RESOLUTION // 16)
        plain = PlainAutoencoder(size, grid, KEEP, VISIBLE, DECODER_DEPTH).to(device).train()
        return plain, lambda: plain(clip)
    from transformers.models.videomae import VideoMAEConfig, VideoMAEForPreTraining

    config = huggingface_config(architecture, {"decoder_depth": DECODER_DEPTH})
    config.pop("architectures")
    other: Any = VideoMAEForPreTraining(VideoMAEConfig(**config))
    other.to(device).train()
    pixels = clip.transpose(1, 2).contiguous()
    hidden = torch.rand(batch, PLACES).argsort(1) < int(0.9 * PLACES)
    masked = hidden[:, None].expand(-1, SLOTS, -1).flatten(1).to(device)
    return other, lambda: other(pixels, bool_masked_pos=masked).loss


def product_shapes(name: str, size: str, batch: int) -> list[tuple[int, int, int, int, int]]:
    """(M, K, N, how often, products each) of the bare matmuls.

    "matmul" has the linears of our step, in the forward pass and for both gradients; "peak" one large square product.
    """
    from models.cost import multiply_adds
    from models.registry import SIZES

    if name == "peak":
        return [(2048, 2048, 2048, 8, 1)]
    s = SIZES[size]
    cost = multiply_adds(size, "pretrain", keep_ratio=KEEP, visible_ratio=VISIBLE)
    visible, kept = batch * cost.encoder_tokens, batch * cost.decoder_tokens
    shapes = [(batch * SLOTS * PLACES, 1536, s.embed_dim, 1, 1)]
    for rows, width, depth in ((visible, s.embed_dim, s.depth), (kept, s.decoder_embed_dim, DECODER_DEPTH)):
        shapes += [(rows, width, out * width, depth, 3) for out in (3, 1, 4)]
        shapes += [(rows, 4 * width, width, depth, 3)]
    shapes += [
        (visible, s.embed_dim, s.decoder_embed_dim, 1, 3),
        (kept - visible, s.decoder_embed_dim, 1536, 1, 3),
    ]
    return shapes


def _products(shapes: list[tuple[int, int, int, int, int]], device: str) -> Callable[[str], None]:
    import torch

    operands = {
        precision: [
            tuple(torch.randn(a, b, device=device, dtype=dtype) for a, b in ((m, k), (n, k), (m, n)))
            for m, k, n, _, _ in shapes
        ]
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }

    def step(precision: str) -> None:
        for (x_MK, weight_NK, grad_MN), (*_, count, products) in zip(operands[precision], shapes, strict=True):
            for _ in range(count):
                torch.nn.functional.linear(x_MK, weight_NK)
                if products == 3:
                    torch.mm(grad_MN, weight_NK)
                    torch.mm(grad_MN.t(), x_MK)

    return step


def _memory(device: str) -> int:
    """Bytes in use now: on the GPU, or resident in this process."""
    import psutil
    import torch

    return torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def _reset_peak(device: str) -> None:
    import torch

    clear = Path("/proc/self/clear_refs")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear.exists():
        clear.write_text("5")  # the kernel then takes the resident peak anew


def _peak(device: str) -> int:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), _memory(device))
