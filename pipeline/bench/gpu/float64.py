"""Loss, gradients and selected tokens of a device against float64 on the CPU; the models and clips for it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from models.autoencoder import EverestAutoencoder
from models.classifier import EverestClassifier, Selected
from models.selection import TokenSplit, rero_scores
from pipeline.bench.gpu.checks import expect
from pipeline.bench.gpu.setting import Setting
from pipeline.bench.harness import Figures, autoencoder, classifier

Stage = Literal["pretrain", "finetune"]
#: What a model selects: scores and a split, or kept tokens.
Chosen = tuple[Tensor, TokenSplit] | Selected
#: Relative errors against float64 that a precision may have: of the loss, of all gradients together.
#: A training's fp32 takes its products in TF32 where the device can ("tf32" here).
BOUNDS = {"fp32": (1e-5, 1e-4), "tf32": (1e-3, 1e-2), "bf16": (1e-2, 5e-2)}
#: How near to the threshold of selection a score must lie to fall on the other side of it.
NEAR = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2}


def size_of(setting: Setting) -> str:
    return "small" if setting.cuda else "tiny"


def small_autoencoder(setting: Setting) -> EverestAutoencoder:
    torch.manual_seed(0)
    keep, visible = (0.3, 0.1) if setting.cuda else (0.5, 0.2)
    shape = {"img_size": setting.resolution, "num_frames": setting.frames}
    return autoencoder(size_of(setting), **shape, keep_ratio=keep, visible_ratio=visible)


def small_classifier(setting: Setting, score_share: float | None = None) -> EverestClassifier:
    torch.manual_seed(0)
    shape = {"img_size": setting.resolution, "num_frames": setting.frames, "num_classes": 16}
    return classifier(size_of(setting), **shape, keep_ratio=0.6, init_scale=1.0, score_share=score_share)


def clip_of(setting: Setting, clips: int, seed: int = 0) -> Tensor:
    """Normalised clips of which each part changes by its own measure, so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 3, setting.frames, setting.resolution, setting.resolution)
    coarse = torch.rand(clips, 1, 1, setting.resolution // 16, setting.resolution // 16, generator=generator)
    strength = torch.nn.functional.interpolate(coarse[:, 0], scale_factor=16, mode="nearest")[:, :, None]
    return torch.randn(shape, generator=generator) * (0.2 + strength)


def noise_of(setting: Setting, clips: int) -> Tensor:
    tokens = setting.frames // 2 * (setting.resolution // 16) ** 2
    return torch.rand(clips, tokens, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def in_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Products in "bf16", "tf32", or whole "fp32"."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def against_float64(setting: Setting, stage: Stage, precision: str) -> Figures:
    """Loss and gradients for the reference's own tokens, and which tokens the device itself selects."""
    device, build = setting.device, small_autoencoder if stage == "pretrain" else small_classifier
    clip, noise = clip_of(setting, 2), noise_of(setting, 2)
    reference, model = build(setting).double(), build(setting).to(device)
    chosen, scores = _select(reference, clip.double(), noise.double())
    expected = loss_of(reference, clip.double(), noise.double())
    expected.backward()
    clip, noise = clip.to(device), noise.to(device)
    with in_precision(device, precision):
        selected, again = (_select(model, clip, noise)[0] for _ in range(2))
        model.select = lambda *_: _moved(chosen, device)  # type: ignore[method-assign,assignment]
        loss = loss_of(model, clip, noise)
        loss.backward()
    loss_error = abs(float(loss) - float(expected)) / abs(float(expected))
    one, other = gradients_of(model), gradients_of(reference)
    gradient_error = float((one - other).norm() / other.norm())
    equal, far = _compared(_tokens(chosen), _tokens(selected), scores)
    repeats = torch.equal(_tokens(selected), _tokens(again))
    loss_bound, gradient_bound = BOUNDS[precision]
    good = loss_error <= loss_bound and gradient_error <= gradient_bound and math.isfinite(loss_error)
    bound = f"errors within the bounds, other tokens only within {NEAR[precision]:g} of the threshold"
    return expect(good and far <= NEAR[precision] and repeats, bound, {
        "loss_error": loss_error, "gradient_error": gradient_error, "loss_bound": loss_bound,
        "gradient_bound": gradient_bound, "equal_tokens_percent": round(100 * equal, 3),
        "farthest_other_token": far, "repeats_itself": repeats,
    })  # fmt: skip


def loss_of(model: EverestAutoencoder | EverestClassifier, clip: Tensor, noise: Tensor) -> Tensor:
    """The loss of pre-training; of a classifier the mean square of its logits."""
    if isinstance(model, EverestAutoencoder):
        loss: Tensor = model(clip, noise_BN=noise)
        return loss
    logits: Tensor = model(clip)
    return logits.float().square().mean()


def _select(model: EverestAutoencoder | EverestClassifier, clip: Tensor, noise: Tensor) -> tuple[Chosen, Tensor]:
    """What a model selects, and the scores [B, N] of all tokens."""
    with torch.no_grad():
        tubelets, grid = model.cut(clip)
        if isinstance(model, EverestAutoencoder):
            embedded = model.encoder.patch_embed(tubelets)
            return model.select(embedded, grid, noise, None), rero_scores(embedded, grid.slots)
        embedded = model.patch_embed(tubelets)
        return model.select(embedded, grid), rero_scores(embedded, grid.slots)


def _moved(chosen: Chosen, device: torch.device) -> Chosen:
    if isinstance(chosen, Selected):
        return Selected(chosen.kept_BK.to(device))
    scores_BN, split = chosen
    return scores_BN.to(device), TokenSplit(split.visible_BV.to(device), split.reconstruct_BR.to(device))


def _tokens(chosen: Chosen) -> Tensor:
    """The kept tokens [B, K], whatever becomes of them, in order."""
    if isinstance(chosen, Selected):
        kept = chosen.kept_BK
    else:
        kept = torch.cat([chosen[1].visible_BV, chosen[1].reconstruct_BR], 1)
    return kept.sort(dim=1).values.cpu()


def gradients_of(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None])


def _compared(expected_BK: Tensor, selected_BK: Tensor, scores_BN: Tensor) -> tuple[float, float]:
    """(share of equal tokens, how far from the threshold the reference scored the others, as a share of it)."""
    equal, far = 0, 0.0
    for row, (expected, selected) in enumerate(zip(expected_BK.tolist(), selected_BK.tolist(), strict=True)):
        equal += len(set(expected) & set(selected))
        threshold = float(scores_BN[row, expected].min())
        others = set(selected) - set(expected)
        far = max([far, *(abs(float(scores_BN[row, token]) - threshold) / threshold for token in others)])
    return equal / expected_BK.numel(), far
