"""What a pre-training step must do at least: FLOPs, bytes and launches by part, and the time they take.

Two ceilings: products at the device's dense bf16 peak, everything else at its memory's speed. Bytes count each tensor
that a part reads or writes once; `eager` is what the parts move as torch runs them one by one, `fused` what is left
when pointwise work is one kernel with its neighbours, as `compute.compile` makes it.
Run `python -m pipeline.bench.gpu.floor` for the tables of docs/gpu.md.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from models.cost import multiply_adds
from models.registry import SIZES
from models.selection import Grid
from pipeline.system.text import visible

#: [FLOP/s] dense bf16 and [byte/s], rounded from the data sheet of an H100 SXM.
PEAK, BANDWIDTH = 990e12, 3.3e12
#: [s] of one launch, as a lead: what a step of many small kernels is bound by.
LAUNCH = 5e-6
#: [byte] that fused AdamW moves for a parameter (fp32 value, gradient, two moments read; value and moments written).
UPDATE_BYTES = 28


class Part(NamedTuple):
    """One part of a step.

    Attributes:
        flops, operands: [FLOP] of its products, and [byte] that they read and write.
        eager, fused: other [byte] that move.
        launches, fused_launches: kernels.
    """

    name: str
    flops: float
    operands: float
    eager: float
    fused: float
    launches: int
    fused_launches: int

    def seconds(self, fused: bool) -> float:
        """[s] of products, which move their operands while they compute, then of what memory moves beside them."""
        products = max(self.flops / PEAK, self.operands / BANDWIDTH)
        return products + (self.fused if fused else self.eager) / BANDWIDTH


def parts(size: str = "base", clips: int = 256) -> list[Part]:
    """The parts of an EVEREST pre-training step at 224 px, keep 0.3, visible 0.1."""
    frames = 16
    shape, grid = SIZES[size], Grid(frames // 2, 14, 14)
    cost = multiply_adds(size, "pretrain", frames=frames)
    visible, kept = cost.encoder_tokens, cost.decoder_tokens
    hidden, tokens = kept - visible, grid.tokens
    pixels, cut = clips * frames * 224 * 224 * 3, clips * tokens * 1536
    read = clips * frames * 256 * 340 * 3
    embedded = clips * tokens * shape.embed_dim
    targets = clips * hidden * 1536
    parameters = _parameters(size)
    return [
        # One kernel of our own: a box's pixels are read once, the result's written once.
        Part("crop and resize", 0, 0, read + pixels, read + pixels, 1, 1),
        # cut uint8, normalise to fp32, cast; fused: uint8 in, bf16 out.
        Part("normalise and cut", 0, 0, pixels + cut + cut + 4 * cut + 4 * cut + 2 * cut, pixels + 2 * cut, 10, 1),
        Part("embedding", 2.0 * cost.embed * clips, 2.0 * (cut + embedded), 0, 0, 2, 1),
        # fp32 copies of both neighbours, difference, norm; fused: read once.
        Part("scores", 0, 0, 2 * 2 * embedded + 4 * 2 * embedded + 4 * 3 * embedded, 2 * embedded, 5, 1),
        # top-k, gathers, sorts of [B, N]: small.
        Part("top-k, shuffle, gathers", 0, 0, 8 * clips * tokens * 12, 8 * clips * tokens * 6, 20, 12),
        _blocks("encoder", clips, visible, shape.embed_dim, shape.depth, shape.num_heads),
        _blocks("decoder", clips, kept, shape.decoder_embed_dim, shape.decoder_depth, shape.decoder_num_heads),
        Part("head", 6.0 * cost.head * clips, 6.0 * targets, 0, 0, 3, 3),
        # gather, float, mean, centre, norm, divide, transpose, and the loss with its gradient.
        Part("targets and loss", 0, 0, targets * (1 + 1 + 4 + 4 + 8 + 4 + 8 + 8 + 6 + 12 + 10), targets * 5, 16, 3),
        Part("gradients' norm", 0, 0, 4.0 * parameters, 4.0 * parameters, 8, 8),
        Part("AdamW, fused", 0, 0, UPDATE_BYTES * parameters, UPDATE_BYTES * parameters, 6, 6),
    ]


def _blocks(name: str, clips: int, tokens: int, width: int, depth: int, heads: int) -> Part:
    """Transformer blocks, forward and backward: residual stream in fp32, everything between in bf16."""
    flops = 6.0 * clips * depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    each = clips * tokens * width
    # Operands and results of the products in bf16, in three passes (forward, gradient of inputs, of weights): qkv 4,
    # attention 8, projection 2, MLP 5 and 5 widths.
    products = 3 * 2 * each * (4 + 4 + 2 + 5 + 5)
    # Two norms (fp32 in and out, cast to bf16), two residual additions, GELU, and their backward passes; a fused norm
    # reads the stream and writes bf16, a fused addition writes the stream once.
    eager = depth * (each * (2 * (4 + 4 + 4 + 2) + 2 * (4 + 2 + 4) + 4 * (2 + 2)) * 2.2)
    fused = depth * (each * (2 * (4 + 2) + 2 * (2 + 4)) * 2.0)
    # Forward: 2 norms, 2 casts, 4 products, attention, bias, GELU, 2 additions; weights cast for each product.
    return Part(
        f"{name} ({depth} blocks, {heads} heads)", flops, depth * products, eager, fused, depth * 52, depth * 24
    )


def _parameters(size: str) -> int:
    shape = SIZES[size]
    encoder = shape.depth * 12 * shape.embed_dim**2 + 1536 * shape.embed_dim
    decoder = shape.decoder_depth * 12 * shape.decoder_embed_dim**2 + 1536 * shape.decoder_embed_dim
    return encoder + decoder + shape.embed_dim * shape.decoder_embed_dim


def _row(part: Part) -> str:
    moved = f"{part.operands / 1e9:.2f} | {part.eager / 1e9:.2f} | {part.fused / 1e9:.2f}"
    times = f"{1e3 * part.seconds(False):.2f} | {1e3 * part.seconds(True):.2f}"
    return f"| {part.name} | {part.flops / 1e12:.2f} | {moved} | {part.launches}, {part.fused_launches} | {times} |"


def triton_savings(size: str = "base", clips: int = 256) -> list[tuple[str, float, str]]:
    """(kernel of our own, [s] that it could save beside compiled parts at most, why)."""
    by_name = {part.name: part for part in parts(size, clips)}
    scores, embedding = by_name["scores"], by_name["embedding"]
    choice, crop, cut = (by_name[name] for name in ("top-k, shuffle, gathers", "crop and resize", "normalise and cut"))
    once = (clips * 16 * 256 * 340 * 3 + 2 * clips * 1568 * 1536) / BANDWIDTH
    shape = SIZES[size]
    embedded = clips * 1568 * shape.embed_dim
    ragged = 6.0 * clips * 0.25 * multiply_adds(size, "pretrain").encoder / PEAK
    return [
        ("scores in the embedding's epilogue", 2 * embedded / BANDWIDTH,
         f"the embedded tokens are written once and never read for scores; compiled scores take "
         f"{1e3 * scores.seconds(True):.2f} ms beside the embedding's {1e3 * embedding.seconds(True):.2f}"),
        ("top-k, shuffle and gather in one", choice.fused / BANDWIDTH + choice.fused_launches * LAUNCH,
         "all of it is small; launches are most"),
        ("crop, resize, normalise and cut in one", crop.seconds(True) + cut.seconds(True) - once,
         "reads each frame once and writes tubelets: no resized frames between"),
        ("ragged attention for budgets of their own", ragged,
         "a quarter of padding, as an assumption; only with score_share, off in all recipes"),
    ]  # fmt: skip


def tables(size: str = "base", clips: int = 256) -> str:
    """The Markdown tables of docs/gpu.md."""
    step = parts(size, clips)
    lines = [
        "| part | TFLOP | GB of products | other GB eager | fused | launches eager, fused | ms eager | ms fused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(part) for part in step]
    eager, fused = (1e3 * sum(part.seconds(mode) for part in step) for mode in (False, True))
    flops = sum(part.flops for part in step)
    moved = [sum(getattr(part, kind) for part in step) / 1e9 for kind in ("operands", "eager", "fused")]
    launches = [sum(part.launches for part in step), sum(part.fused_launches for part in step)]
    useful = 6.0 * multiply_adds(size, "pretrain").multiply_adds * clips
    sums = (
        f"{moved[0]:.1f} | {moved[1]:.1f} | {moved[2]:.1f} | {launches[0]}, {launches[1]} | {eager:.1f} | {fused:.1f}"
    )
    lines.append(f"| **together** | {flops / 1e12:.2f} | {sums} |")
    shares = [100 * useful / PEAK / milliseconds * 1e3 for milliseconds in (eager, fused)]
    rates = [clips / milliseconds * 1e3 for milliseconds in (eager, fused)]
    lines += [
        "",
        f"Products alone: {1e3 * flops / PEAK:.1f} ms. MFU counts {useful / 1e12:.1f} TFLOP (three forwards), so the "
        f"sums above mean {shares[0]:.0f} % eager and {shares[1]:.0f} % fused, {rates[0]:.0f} and {rates[1]:.0f} clips "
        f"a second, if every product ran at the peak and nothing else were lost. Launches at {1e6 * LAUNCH:.0f} µs: "
        f"{1e3 * launches[0] * LAUNCH:.1f} ms and {1e3 * launches[1] * LAUNCH:.1f} ms, hidden while the device is busy "
        "longer.",
        "",
        "| kernel of our own | could save ms at most | of the fused step | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {1e3 * seconds:.2f} | {1e5 * seconds / fused:.1f} % | {why} |"
        for name, seconds, why in triton_savings(size, clips)
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(visible(tables(sys.argv[1] if len(sys.argv) > 1 else "base")))
