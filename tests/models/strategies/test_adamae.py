"""AdaMAE: tokens are drawn in proportion to a learned probability, which rises where tokens are hard to rebuild."""

from __future__ import annotations

import math

import pytest
import torch
from flops import counted

from models.cost import multiply_adds
from models.registry import create_autoencoder
from models.selection import Budget, Grid
from models.strategies.adamae import WEIGHT, drawn_split, sampling_loss

SHAPE = {"img_size": 64, "num_frames": 8, "strategy": "adamae", "visible_ratio": 0.1, "keep_ratio": 1.0}


def test_tokens_are_shown_in_proportion_to_their_probability() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05]).expand(40_000, 4)
    noise = torch.rand(40_000, 4, generator=torch.Generator().manual_seed(0))
    split = drawn_split(probability.log(), noise, Grid(2, 1, 2), Budget(1, 3))
    shown = torch.bincount(split.visible_BV[:, 0], minlength=4) / 40_000
    torch.testing.assert_close(shown, probability[0], rtol=0, atol=0.01)
    everything = torch.cat([split.visible_BV, split.reconstruct_BR], dim=1)
    assert torch.equal(everything.sort(dim=1).values, torch.arange(4).expand(40_000, 4))


def test_the_lesson_raises_the_probability_of_what_was_badly_rebuilt_and_reaches_nothing_else() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    error = torch.tensor([[3.0, 0.1, 0.1]], requires_grad=True)
    loss = sampling_loss(logits.log_softmax(1), torch.tensor([[1, 2, 3]]), error)
    expected = -WEIGHT * sum(math.log(0.25) * one for one in (3.0, 0.1, 0.1)) / 3
    assert loss.item() == pytest.approx(expected), "the mean over rebuilt tokens, weighted as the authors weigh it"
    loss.backward()
    assert logits.grad is not None
    assert error.grad is None
    assert (-logits.grad[0]).argmax() == 1


def test_the_autoencoder_learns_what_it_would_without_the_lesson() -> None:
    torch.manual_seed(0)
    model = create_autoencoder("everest_pretrain_tiny_patch16_224", SHAPE).train()  # type: ignore[arg-type]
    clip, noise = torch.randn(2, 3, 8, 64, 64), torch.rand(2, 64)
    output = model(clip, noise_BN=noise, return_output=True)
    output.loss.backward()
    learned = model.encoder.patch_embed.proj.weight.grad.clone()
    model.zero_grad()
    _, grid = model.cut(clip)
    again = model(clip, noise_BN=noise, return_output=True)
    model.errors(clip, grid, again.reconstruct_BR, again.prediction_BRP).mean().backward()
    torch.testing.assert_close(model.encoder.patch_embed.proj.weight.grad, learned)
    assert model.sampler.score.weight.grad is None, "and the reconstruction teaches the sampler nothing"


def test_the_loss_stays_that_of_the_reconstruction_and_both_networks_learn() -> None:
    torch.manual_seed(0)
    model = create_autoencoder("everest_pretrain_tiny_patch16_224", SHAPE).train()  # type: ignore[arg-type]
    clip = torch.randn(2, 3, 8, 64, 64)
    output = model(clip, return_output=True)
    _, grid = model.cut(clip)
    again = model.errors(clip, grid, output.reconstruct_BR, output.prediction_BRP)
    torch.testing.assert_close(output.loss, again.mean())
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.sampler.score.weight.grad.abs().sum() > 0


def test_its_cost_is_what_torch_counts() -> None:
    model = create_autoencoder("everest_pretrain_tiny_patch16_224", SHAPE)  # type: ignore[arg-type]
    flops = counted(lambda: model(torch.randn(1, 3, 8, 64, 64)))
    cost = multiply_adds("tiny", "pretrain", strategy="adamae", keep_ratio=1.0, visible_ratio=0.1, frames=8,
                         resolution=64)  # fmt: skip
    assert cost.multiply_adds == pytest.approx(flops, rel=5e-3)
