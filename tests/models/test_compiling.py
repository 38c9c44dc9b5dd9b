"""Compilation by parts: few graphs, the same numbers; and what a step on a GPU may not do."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath
from torch._dynamo.utils import counters

import models  # noqa: F401 - registers the names with timm
from models.vit import Blocks, drop_path

SMALL = {"img_size": 32, "num_frames": 8, "keep_ratio": 0.5}
PRETRAIN, CLASSIFIER = "everest_pretrain_tiny_patch16_224", "everest_tiny_patch16_224"


def _model(name: str, **more: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(name, **SMALL, **more).train()


def _clip(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    pixels = torch.randint(0, 256, (3, 3, 8, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 128 - 1


@pytest.mark.parametrize(
    ("name", "more", "dtype", "graphs"),
    [
        (PRETRAIN, {"visible_ratio": 0.2}, torch.uint8, 5),  # encoder block, decoder block, cut, scores, loss
        (
            CLASSIFIER,
            {"num_classes": 5, "drop_path_rate": 0.3},
            torch.float32,
            4,
        ),  # first block, the others, cut, scores
    ],
)
def test_blocks_of_all_depths_share_a_graph_and_steps_compile_nothing_anew(
    name: str, more: dict[str, object], dtype: torch.dtype, graphs: int
) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = _model(name, **more)
    model.compile_parts(backend="eager", fullgraph=True, dynamic=False)  # fullgraph: a sync or a break would raise
    for _ in range(20):
        model(_clip(dtype)).square().mean().backward()
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize(
    ("name", "more", "graphs"),
    [
        (PRETRAIN, {"visible_ratio": 0.2}, 5),  # encoder's row, decoder's row, cut, scores, loss
        (CLASSIFIER, {"num_classes": 5, "drop_path_rate": 0.3}, 3),  # row, cut, scores
    ],
)
def test_a_row_of_blocks_is_one_graph_and_each_forward_pass_begins_anew(
    monkeypatch: pytest.MonkeyPatch, name: str, more: dict[str, object], graphs: int
) -> None:
    passes = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: passes.append(1))
    torch._dynamo.reset()
    counters.clear()
    model = _model(name, **more)
    model.compile_parts("default", backend="eager", fullgraph=True, dynamic=False)
    for _ in range(5):
        model(_clip()).square().mean().backward()
    assert counters["stats"]["unique_graphs"] == graphs
    assert len(passes) == 5
    _model(name, **more)(_clip())
    assert len(passes) == 5


@pytest.mark.parametrize("row_mode", [None, "default"])
@pytest.mark.parametrize("name", [PRETRAIN, CLASSIFIER])
def test_compiling_changes_neither_names_nor_losses(name: str, row_mode: str | None) -> None:
    eager, compiled = _model(name), _model(name)
    names = list(compiled.state_dict())
    compiled.compile_parts(row_mode, backend="eager", fullgraph=True, dynamic=False)
    assert list(compiled.state_dict()) == names
    outputs = []
    for model in (eager, compiled):
        torch.manual_seed(3)
        outputs.append(model(_clip()))
    assert torch.equal(*outputs)


def test_drop_path_is_timms_to_the_bit() -> None:
    blocks = Blocks(12, 3, 3, drop_path=0.4).train()
    x_BND = torch.randn(5, 4, 12, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    result = blocks(x_BND)
    torch.manual_seed(7)
    expected = x_BND
    for block, rate in zip(blocks, (0.0, 0.2, 0.4), strict=True):
        drop = DropPath(rate)
        expected = expected + drop(block.attn(block.norm1(expected)))
        expected = expected + drop(block.mlp(block.norm2(expected)))
    assert torch.equal(result, expected)
    assert torch.equal(blocks.eval()(x_BND), Blocks.forward(blocks, x_BND))
    assert drop_path(x_BND, 0.4).shape == (2, 5, 1, 1)


@pytest.mark.parametrize("strategy", ["everest", "tube"])
@pytest.mark.parametrize("half", [False, True])
def test_uint8_pixels_have_the_loss_and_the_gradients_of_the_normalised_clip(strategy: str, half: bool) -> None:
    from pipeline.data.pixels.normalise import normalise

    pixels = _clip(torch.uint8)
    noise_BN = torch.rand(3, 16, generator=torch.Generator().manual_seed(2))
    results = []
    for clip in (pixels, normalise(pixels.permute(0, 2, 3, 4, 1).contiguous())):
        model = _model(PRETRAIN, visible_ratio=0.2, strategy=strategy)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(clip, noise_BN=noise_BN, return_output=True)
        output.loss.backward()
        results.append((output, torch.cat([p.grad.flatten() for p in model.parameters()])))
    (one, one_gradient), (other, other_gradient) = results
    assert torch.equal(one.visible_BV, other.visible_BV)
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-4 if half else 1e-6)
    assert float((one_gradient - other_gradient).norm() / other_gradient.norm()) < (2e-2 if half else 1e-5)
