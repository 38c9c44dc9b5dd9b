"""Clips of unequal token counts: computed without padding, with the numbers of the padded ones and a known cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from flops import counted
from torch import Tensor

from models.autoencoder import EverestAutoencoder
from models.classifier import POOLS, EverestClassifier
from models.cost import cost_of_counts
from models.registry import create_autoencoder, create_classifier
from models.selection import Budget
from models.unequal.packed import Rows, attend_rows, joined, rows_of
from models.vit import attend

CLIPS = 6


def clips() -> Tensor:
    """Clips of which each moves in a larger part of the picture than the one before, so that counts differ."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(CLIPS, 3, 1, 96, 96, generator=generator)
    moving = torch.randn(CLIPS, 3, 8, 96, 96, generator=generator)
    part = (torch.arange(96) // 16)[None, :] <= torch.arange(CLIPS)[:, None]
    return torch.where(part[:, None, None, None, :], moving, still)


def noise() -> Tensor:
    return torch.rand(CLIPS, 144, generator=torch.Generator().manual_seed(1))


def pretraining(**more: object) -> EverestAutoencoder:
    torch.manual_seed(2)
    arguments = {"img_size": 96, "num_frames": 8, "score_share": 0.7, **more}
    return create_autoencoder("everest_pretrain_tiny_patch16_224", arguments).train()  # type: ignore[arg-type]


def classifier(**more: object) -> EverestClassifier:
    torch.manual_seed(2)
    arguments = {"img_size": 96, "num_frames": 8, "num_classes": 5, "score_share": 0.7, "init_scale": 1.0, **more}
    return create_classifier("everest_tiny_patch16_224", arguments).train()  # type: ignore[arg-type]


def test_a_row_packs_and_unpacks_what_is_real_in_the_order_of_lengths() -> None:
    counts = torch.tensor([3, 1, 4, 1])
    rows = rows_of(counts)
    assert rows.lengths == (1, 1, 3, 4)
    assert rows.clip_M.tolist() == [1, 3, 0, 0, 0, 2, 2, 2, 2]
    assert rows.start_B1.tolist() == [0, 1, 2, 5, 9]
    padded = torch.arange(16.0).view(4, 4, 1)
    packed = rows.pack(padded)
    assert packed.flatten().tolist() == [4, 12, 0, 1, 2, 8, 9, 10, 11]
    assert torch.equal(rows.unpack(packed), padded * rows.valid()[..., None])
    assert rows.mean(packed).flatten().tolist() == [1, 4, 9.5, 12]


def test_two_rows_join_clip_by_clip() -> None:
    counts, order = torch.tensor([2, 1]), torch.tensor([1, 0])
    first, second = Rows(counts, (1, 2), order), Rows(counts + 1, (2, 3), order)
    both, one, other = joined(first, second)
    assert both.lengths == (3, 5)
    assert one.tolist() == [0, 3, 4]
    assert other.tolist() == [1, 2, 5, 6, 7]


def test_attention_never_looks_beyond_its_own_clip() -> None:
    rows = rows_of(torch.tensor([5, 2, 5, 3]))
    qkv = torch.randn(15, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    mixed = attend_rows(qkv, rows, attend)
    for part, own in zip(qkv.split(rows.lengths), mixed.split(rows.lengths), strict=True):
        alone = attend(part.permute(1, 2, 0, 3)[:, None])[0].transpose(0, 1)
        torch.testing.assert_close(own, alone)


def both_ways(model: EverestAutoencoder | EverestClassifier, *, half: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """What the model gives packed and padded, and the gradients of all parameters."""
    outputs = []
    for packed in (True, False):
        model.packed = packed
        torch.manual_seed(5)  # drop-path draws the same numbers
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = model(clips(), noise_BN=noise()) if isinstance(model, EverestAutoencoder) else model(clips())
        model.zero_grad()
        result.float().square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        outputs.append((result.detach(), gradients))
    yield from zip(*outputs, strict=True)


@pytest.mark.parametrize(
    "model",
    [
        pretraining(),
        classifier(),
        classifier(head="attentive"),
        classifier(head="places"),
        classifier(drop_path_rate=0.3),
    ],
    ids=["pretraining", "mean", "attentive", "places", "drop-path"],
)
def test_results_and_gradients_are_those_of_padded_clips(model: EverestAutoencoder | EverestClassifier) -> None:
    for packed, padded in both_ways(model):
        assert float((packed - padded).norm() / padded.norm()) < 1e-5


@pytest.mark.parametrize("model", [pretraining(), classifier()], ids=["pretraining", "finetuning"])
def test_bf16_stays_close_to_the_padded_form(model: EverestAutoencoder | EverestClassifier) -> None:
    for packed, padded in both_ways(model, half=True):
        assert float((packed.float() - padded.float()).norm() / padded.float().norm()) < 2e-2


def test_recomputed_activations_change_nothing() -> None:
    gradients = []
    for recompute in (False, True):
        model = pretraining()
        model.set_grad_checkpointing(recompute)
        model(clips(), noise_BN=noise()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_chosen_slots_and_budgets_of_their_own_go_together() -> None:
    losses = []
    for packed in (True, False):
        model = pretraining()
        model.packed = packed
        candidates = torch.cat([clips(), clips()[:, :, :4]], dim=2)
        slot_noise = torch.rand(CLIPS, 6, generator=torch.Generator().manual_seed(3))
        losses.append(model(candidates, noise_BN=noise(), choose=4, slot_noise_BA=slot_noise))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_padding_costs_nothing_and_the_cost_of_counts_is_what_torch_counts() -> None:
    model = pretraining()
    with torch.no_grad():
        output = model(clips(), noise_BN=noise(), return_output=True)
        tubelets, grid = model.cut(clips())
        split = model.select(model.encoder.patch_embed(tubelets), grid, noise(), None)[1]
    assert split.visible_rows is not None
    assert split.reconstruct_rows is not None
    budgets = [Budget(*pair) for pair in zip(split.visible_rows.count_B.tolist(),
                                             split.reconstruct_rows.count_B.tolist(), strict=True)]  # fmt: skip
    assert len({sum(budget) for budget in budgets}) == CLIPS, "clips of unequal counts"
    assert output.prediction_BRP.shape[:2] == split.reconstruct_BR.shape
    flops = counted(lambda: model(clips(), noise_BN=noise()))
    assert model.seen == dict.fromkeys(budgets, 2), "both forwards were counted"
    predicted = cost_of_counts("tiny", model.seen, frames=8, resolution=96).multiply_adds * CLIPS
    assert predicted == pytest.approx(flops, rel=5e-3)


@pytest.mark.parametrize("head", POOLS)
def test_the_cost_of_a_classifiers_counts_is_what_torch_counts(head: str) -> None:
    model = classifier(head=head).eval()
    with torch.no_grad():
        tubelets, grid = model.cut(clips())
        rows = model.select(model.patch_embed(tubelets), grid)[1]
    assert rows is not None
    flops = counted(lambda: model(clips()))
    cost = cost_of_counts("tiny", model.seen, frames=8, resolution=96, num_classes=5, head=head)
    assert cost.multiply_adds * CLIPS == pytest.approx(flops, rel=1e-2)
    assert cost.encoder_tokens == round(sum(rows.lengths) / CLIPS)
