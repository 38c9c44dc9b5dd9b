"""Right: the device's numbers against float64 on the CPU, and switches that may not change them."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import timm
import torch

import models  # noqa: F401 - registers the names with timm
from models.registry import architecture
from models.selection import TokenSplit
from pipeline.bench.gpu.checks import Check, expect
from pipeline.bench.gpu.setting import (
    Setting,
    engine_of,
    losses_of,
    noise_videos,
    params_of,
    resident_engine,
    task_of,
)
from pipeline.bench.gpu.timing import peak_gib, reset_peak

#: Relative errors against float64 that a precision may have: of the loss, of all gradients together.
BOUNDS = {"fp32": (1e-3, 1e-2), "bf16": (1e-2, 5e-2)}
#: How near to the threshold of selection a score must lie to fall on the other side of it.
NEAR = {"fp32": 5e-3, "bf16": 5e-2}
HALF = {"fp32": None, "bf16": torch.bfloat16}
#: Share by which the planner's memory may be off.
MEMORY = 0.10


def checks(setting: Setting) -> Iterator[Check]:
    """The checks, those that everything else stands on first."""
    for stage in ("pretrain", "finetune"):
        for precision in ("fp32", "bf16"):
            yield Check(
                f"{stage} {precision} against float64",
                lambda stage=stage, precision=precision: against_float64(setting, stage, precision),  # type: ignore[misc]
                setting.needs(5),
            )
    yield Check("no host sync in a step: pretrain", lambda: no_sync(setting, "pretrain"), setting.needs(5))
    yield Check(
        "no host sync in a step: finetune without RandAugment",
        lambda: no_sync(setting, "finetune", finetune__rand_augment=None), setting.needs(5),
    )  # fmt: skip
    yield Check(
        "no host sync in a step: finetune, all augmentations", lambda: no_sync(setting, "finetune"), setting.needs(5)
    )
    yield Check("crops as on the CPU", lambda: crops(setting), setting.needs(2))
    yield Check("uint8 clips against normalised ones", lambda: bytes_against_floats(setting), setting.needs(2))
    yield Check("a NaN is refused on the device", lambda: nan_policy(setting), setting.needs(5))
    yield Check("exact resume", lambda: resume(setting, deterministic=False), setting.needs(8))
    yield Check("exact resume, deterministic kernels", lambda: resume(setting, deterministic=True), setting.needs(8))
    yield Check("compiled against eager", lambda: compiled(setting), setting.needs(45))
    yield Check("activation checkpointing", lambda: recomputing(setting), setting.needs(5))
    yield Check("predicted memory: pretrain", lambda: memory(setting, "pretrain"), setting.needs(15))
    yield Check("predicted memory: finetune", lambda: memory(setting, "finetune"), setting.needs(15))
    yield Check("a clip's own budget: padded against alone", lambda: padded(setting), setting.needs(3))
    yield Check("fp16 with loss scaling", lambda: half(setting), setting.needs(5))
    yield Check("FSDP2 on one rank against DDP", lambda: sharded(setting), setting.needs(10))


def size_of(setting: Setting) -> str:
    return "small" if setting.cuda else "tiny"


def _model(setting: Setting, stage: str, **more: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"img_size": setting.resolution, "num_frames": setting.frames}
    shape |= {"keep_ratio": 0.3 if setting.cuda else 0.5, "visible_ratio": 0.1 if setting.cuda else 0.2}
    if stage == "finetune":
        shape.pop("visible_ratio")
        shape |= {"keep_ratio": 0.6, "num_classes": 16, "init_scale": 1.0}
    model: Any = timm.create_model(architecture(size_of(setting), stage == "pretrain"), **shape | more)
    return model.train()


def _clip(setting: Setting, clips: int, seed: int = 0) -> torch.Tensor:
    """Normalised clips of which each part changes by its own measure, so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 3, setting.frames, setting.resolution, setting.resolution)
    coarse = torch.rand(clips, 1, 1, setting.resolution // 16, setting.resolution // 16, generator=generator)
    strength = torch.nn.functional.interpolate(coarse[:, 0], scale_factor=16, mode="nearest")[:, :, None]
    return torch.randn(shape, generator=generator) * (0.2 + strength)


def _noise(setting: Setting, clips: int) -> torch.Tensor:
    tokens = setting.frames // 2 * (setting.resolution // 16) ** 2
    return torch.rand(clips, tokens, generator=torch.Generator().manual_seed(1))


def against_float64(setting: Setting, stage: str, precision: str) -> dict[str, Any]:
    """Loss and gradients for the reference's own tokens, and which tokens the device itself selects."""
    clips, device = 2, setting.device
    clip, noise = _clip(setting, clips), _noise(setting, clips)
    reference = _model(setting, stage).double()
    chosen: list[Any] = []
    select = reference.select

    def remember(*arguments: Any) -> Any:
        chosen.append(select(*arguments))
        return chosen[-1]

    reference.select = remember
    kwargs = {"noise_BN": noise.double()} if stage == "pretrain" else {}
    expected = _scalar(reference(clip.double(), **kwargs))
    expected.backward()
    model = _model(setting, stage).to(device)
    free = model.select
    given = _to(chosen[0], device)
    model.select = lambda *_: given
    kwargs = {"noise_BN": noise.to(device)} if stage == "pretrain" else {}
    with torch.autocast(device.type, HALF[precision] or torch.bfloat16, enabled=HALF[precision] is not None):
        found = _scalar(model(clip.to(device), **kwargs))
        found.backward()
        tubelets, grid = model.cut(clip.to(device))
        embed = model.encoder.patch_embed if stage == "pretrain" else model.patch_embed
        embedded = embed(tubelets)
        more = (noise.to(device), None) if stage == "pretrain" else ()
        selected = free(embedded, grid, *more)
        again = free(embedded, grid, *more)
    loss_error = abs(float(found) - float(expected)) / abs(float(expected))
    one = torch.cat([p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None])
    other = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None])
    gradient_error = float((one - other).norm() / other.norm())
    equal, far = _selection(chosen[0], selected, reference, clip, stage)
    values = {
        "loss_error": loss_error, "gradient_error": gradient_error, "loss_bound": BOUNDS[precision][0],
        "gradient_bound": BOUNDS[precision][1], "equal_tokens_percent": round(100 * equal, 3),
        "farthest_other_token": far, "repeats_itself": _same(selected, again),
    }  # fmt: skip
    good = loss_error <= BOUNDS[precision][0] and gradient_error <= BOUNDS[precision][1] and math.isfinite(loss_error)
    bound = f"errors within the bounds, other tokens only within {NEAR[precision]:g} of the threshold"
    return expect(good and far <= NEAR[precision] and bool(values["repeats_itself"]), bound, values)


def _scalar(output: torch.Tensor) -> torch.Tensor:
    return output if output.ndim == 0 else output.float().square().mean()


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, TokenSplit):
        return TokenSplit(*(_to(part, device) for part in value))
    return tuple(_to(part, device) for part in value) if isinstance(value, tuple) else value


def _tokens(selected: Any) -> torch.Tensor:
    """The kept tokens [B, K], whatever becomes of them, in order."""
    split = selected[1] if isinstance(selected[1], TokenSplit) else None
    kept = torch.cat([split.visible_BV, split.reconstruct_BR], 1) if split is not None else selected[0]
    return kept.sort(dim=1).values.cpu()


def _same(one: Any, other: Any) -> bool:
    return torch.equal(_tokens(one), _tokens(other))


def _selection(expected: Any, found: Any, reference: Any, clip: torch.Tensor, stage: str) -> tuple[float, float]:
    """(share of equal tokens, how far from the threshold the reference scored the others, as a share of it)."""
    from models.selection import rero_scores

    one, other = _tokens(expected), _tokens(found)
    embed = reference.encoder.patch_embed if stage == "pretrain" else reference.patch_embed
    tubelets, grid = reference.cut(clip.double())
    scores = rero_scores(embed(tubelets), grid.slots)
    equal, far = 0, 0.0
    for row in range(len(one)):
        a, b = set(one[row].tolist()), set(other[row].tolist())
        equal += len(a & b)
        threshold = float(scores[row, list(a)].min())
        far = max([far, *(abs(float(scores[row, token]) - threshold) / threshold for token in b - a)])
    return equal / one.numel(), far


@contextlib.contextmanager
def _syncs_are_errors(setting: Setting) -> Iterator[None]:
    if not setting.cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def no_sync(setting: Setting, stage: str, **changes: Any) -> dict[str, Any]:
    """The engine's own step, from the loader to the update, while every wait for the device is an error."""
    batch = 8 if setting.cuda else 4
    params = params_of(setting, size_of(setting), batch, **changes)
    task = task_of(setting, stage, params, noise_videos(setting, batch, 3), times=8)
    engine = engine_of(setting, task)
    engine.model.train()
    batches = iter(task.loader.epoch(0))
    losses_of(engine, batches, 3)  # the first steps allocate and choose kernels
    with _syncs_are_errors(setting):
        for _ in range(3):
            engine._train_step(batches, 0)
            engine.step += 1
    engine._settle(0, at_once=True)
    return {"steps": 3, "loss": engine.last_loss, "mode": "error" if setting.cuda else "a CPU never waits"}


def crops(setting: Setting) -> dict[str, Any]:
    """Crops of smooth frames on the device and on the CPU, by grey levels."""
    import numpy as np

    from pipeline.data.pixels.resize import crop_resize, resize_batched

    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (3 * setting.frames, 3, 6, 8), dtype=np.uint8)).float()
    size = (setting.height, setting.width)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear").to(torch.uint8)
    clips = smooth.unflatten(0, (3, setting.frames)).permute(0, 1, 3, 4, 2).contiguous()
    side = setting.height
    boxes = np.asarray([[0, 0, side, side], [3, 5, side - 9, side - 7], [1, 2, side // 2, side // 3]])
    flips = np.asarray([False, True, False])
    expected = crop_resize(clips, boxes, setting.resolution, "cpu", flips).int()
    found = resize_batched(clips.to(setting.device), boxes, setting.resolution, flips).cpu().int()
    difference = (found - expected).abs()
    values = {"largest_grey_levels": int(difference.max()), "mean_grey_levels": float(difference.float().mean())}
    return expect(values["largest_grey_levels"] <= 1, "at most one grey level", values)


def bytes_against_floats(setting: Setting) -> dict[str, Any]:
    """The loss of uint8 pixels, as a GPU's trainings take them, and of the normalised clip."""
    from pipeline.data.pixels.normalise import normalise

    shape = (2, setting.frames, setting.resolution, setting.resolution, 3)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model, noise = _model(setting, "pretrain").to(setting.device), _noise(setting, 2).to(setting.device)
    one = float(model(pixels.permute(0, 4, 1, 2, 3).to(setting.device), noise_BN=noise).detach())
    other = float(model(normalise(pixels).to(setting.device), noise_BN=noise).detach())
    values = {"loss_uint8": one, "loss_float": other, "error": abs(one - other) / other}
    return expect(values["error"] < 1e-3, "losses within 1e-3", values)


def nan_policy(setting: Setting) -> dict[str, Any]:
    """A step with a NaN leaves parameters and moments to the bit, and the training goes on."""
    engine, batches = resident_engine(setting, "pretrain", params_of(setting, size_of(setting), 4))
    losses_of(engine, batches, 3)
    before = [p.detach().clone() for p in engine.parameters]
    normal = engine.task.loss
    engine.task.loss = lambda *wish: normal(*wish) * math.nan  # type: ignore[method-assign]
    losses_of(engine, batches, 1)
    kept = all(torch.equal(p, q) for p, q in zip(engine.parameters, before, strict=True))
    engine.task.loss = normal  # type: ignore[method-assign]
    after = losses_of(engine, batches, 1)[0]
    values = {"refused": engine.nonfinite, "kept_to_the_bit": kept, "loss_after": after}
    return expect(kept and engine.nonfinite == 1 and math.isfinite(after), "one refused step, nothing changed", values)


def resume(setting: Setting, deterministic: bool) -> dict[str, Any]:
    """Six steps at once and three after a checkpoint of the third."""
    batch = 8 if setting.cuda else 4
    params = params_of(setting, size_of(setting), batch, pretrain__checkpoint_every_steps=10**6)
    source = noise_videos(setting, batch, 5)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        engine = engine_of(setting, task_of(setting, "pretrain", params, source, times=8))
        engine.model.train()
        batches = iter(engine.task.loader.epoch(0))
        losses_of(engine, batches, 3)
        engine.save()
        engine.checkpoints.wait()
        whole = losses_of(engine, batches, 3)
        other = engine_of(setting, task_of(setting, "pretrain", params, source, times=8), engine.work)
        other.resume()
        other.model.train()
        continued = losses_of(other, iter(other.task.loader.epoch(0, start_micro_step=3)), 3)
    finally:
        torch.use_deterministic_algorithms(False)
    pairs = list(zip(engine.parameters, other.parameters, strict=True))
    same = all(torch.equal(p, q) for p, q in pairs) and whole == continued
    error = max(float((p - q).detach().norm() / (p.detach().norm() + 1e-12)) for p, q in pairs)
    values = {"equal_to_the_bit": same, "largest_relative_difference": error, "losses": whole, "continued": continued}
    if deterministic:
        return expect(same, "bit-equal parameters and losses", values)
    return expect(error < 1e-2, "parameters within 1e-2", values)


def compiled(setting: Setting) -> dict[str, Any]:
    """Twenty steps compiled by parts, with fullgraph, against eager ones: losses, compilations, start-up."""
    import time

    from torch._dynamo.utils import counters

    size, batch = ("base", 16) if setting.cuda else ("tiny", 4)
    steps = 20 if setting.cuda else 4
    curves, first, graphs = [], 0.0, [0, 0]
    for switch in (False, True):
        torch.manual_seed(0)
        engine, batches = resident_engine(setting, "pretrain", params_of(setting, size, batch), switch)
        counters.clear()
        began = time.monotonic()
        curve = losses_of(engine, batches, 1)
        if switch:
            first, graphs[0] = time.monotonic() - began, counters["stats"]["unique_graphs"]
        curve += losses_of(engine, batches, steps - 1)
        if switch:
            graphs[1] = counters["stats"]["unique_graphs"]
        curves.append(curve)
    error = max(abs(a - b) / abs(a) for a, b in zip(*curves, strict=True))
    values = {"size": size, "steps": steps, "largest_loss_error": error, "graphs_after_first_step": graphs[0],
              "graphs_at_the_end": graphs[1], "first_step_seconds": round(first, 1)}  # fmt: skip
    return expect(
        error < 2e-2 and graphs[0] == graphs[1] and first < 60,
        "losses within 2e-2, no recompilation, start-up below 60 s", values,
    )  # fmt: skip


def recomputing(setting: Setting) -> dict[str, Any]:
    """Gradients with recomputed activations, and the memory that it saves."""
    clip, noise = _clip(setting, 4).to(setting.device), _noise(setting, 4).to(setting.device)
    found = []
    for switch in (False, True):
        model: Any = _model(setting, "pretrain").to(setting.device)
        model.set_grad_checkpointing(switch)
        reset_peak(setting.device)
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = model(clip, noise_BN=noise)
        loss.backward()
        found.append((torch.cat([p.grad.flatten() for p in model.parameters()]), peak_gib(setting.device)))
    (plain, plain_gib), (again, again_gib) = found
    error = float((plain - again).norm() / plain.norm())
    values = {"gradient_error": error, "peak_gib": plain_gib, "peak_gib_recomputing": again_gib}
    return expect(error < 1e-3, "gradients within 1e-3", values)


def memory(setting: Setting, stage: str) -> dict[str, Any]:
    """The planner's peak of a step, and what the device's allocator really gave out."""
    from pipeline.planning.plan import memory_of, model_of

    size, batch = ("base", 64 if stage == "pretrain" else 16) if setting.cuda else ("tiny", 4)
    params = params_of(setting, size, batch)
    benchmark = None if stage == "pretrain" else "k400"
    _, per_clip, fixed = memory_of(model_of(benchmark, params), "bf16", params, 1)
    predicted = (fixed + per_clip * batch) / 2**30
    engine, batches = resident_engine(setting, stage, params)
    held = 2 * batch * setting.frames * setting.height * setting.width * 3 / 2**30  # the benchmark's own clips
    losses_of(engine, batches, 2)
    reset_peak(setting.device)
    losses_of(engine, batches, 2)
    measured = peak_gib(setting.device)
    values: dict[str, Any] = {"size": size, "clips": batch, "predicted_gib": round(predicted, 3)}
    if measured is None:
        return values | {"measured_gib": None}
    measured -= held
    values |= {"measured_gib": round(measured, 3), "error_percent": round(100 * (predicted / measured - 1), 1)}
    return expect(abs(predicted / measured - 1) <= MEMORY, "within 10 %", values)


def padded(setting: Setting) -> dict[str, Any]:
    """Clips with budgets of their own, padded to the longest, against each clip alone. Packing is not built."""
    clip, device = _clip(setting, 4, seed=2).to(setting.device), setting.device
    clip[0, :, 2:] = clip[0, :, :2].repeat(1, setting.frames // 2 - 1, 1, 1)  # a still clip beside busy ones
    model = _model(setting, "finetune", score_share=0.5).to(device).eval()
    with torch.no_grad():
        together = model(clip)
        alone = torch.cat([model(clip[row : row + 1]) for row in range(len(clip))])
    error = float((together - alone).norm() / alone.norm())
    return expect(error < 1e-2, "logits within 1e-2", {"error": error, "packed": "not built"})


def half(setting: Setting) -> dict[str, Any]:
    """fp16 trains: finite losses, and the scale has found its place."""
    params = params_of(setting, size_of(setting), 4, pretrain__precision="fp16")
    engine, batches = resident_engine(setting, "pretrain", params)
    curve = losses_of(engine, batches, 10 if setting.cuda else 3)
    values = {"first_loss": curve[0], "last_loss": curve[-1], "scale": float(engine.scaler.scale)}
    return expect(all(map(math.isfinite, curve)) and values["scale"] >= 1, "finite losses", values)


def sharded(setting: Setting) -> dict[str, Any]:
    """Losses of one rank that shards and of one that does not."""
    from pipeline.distributed.groups import alone, finish

    batch = 8 if setting.cuda else 4
    curves = []
    alone(setting.device)
    try:
        for how in ("ddp", "fsdp"):
            params = params_of(setting, size_of(setting), batch, compute__data_parallel=how)
            engine, batches = resident_engine(setting, "pretrain", params)
            curves.append(losses_of(engine, batches, 5 if setting.cuda else 3))
    finally:
        finish()
    error = max(abs(a - b) / abs(a) for a, b in zip(*curves, strict=True))
    return expect(error < 1e-2, "losses within 1e-2", {"largest_loss_error": error, "losses": copy.copy(curves[0])})
