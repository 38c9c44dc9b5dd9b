"""ToMe: r tokens a block are joined, the most similar first, and a joined one weighs as those that it stands for."""

from __future__ import annotations

import pytest
import torch
from flops import counted

from models.cost import multiply_adds
from models.registry import create_classifier
from models.strategies.tome import merge, merges, merging_blocks
from models.vit import Blocks, attend


def blocks(depth: int = 3) -> Blocks:
    torch.manual_seed(0)
    return Blocks(24, depth, 3).eval()


def tokens(count: int = 12) -> torch.Tensor:
    return torch.randn(2, count, 24, generator=torch.Generator().manual_seed(1))


def test_every_block_merges_as_many_and_never_more_than_half() -> None:
    papers = [merged for _, merged in merges(1568, 1568 - 24 * 65, 24)]
    assert papers == [65] * 23 + [36], "the paper's r = 65 for ViT-L on video; of the last 73 tokens at most half"
    assert [merged for _, merged in merges(10, 1, 2)] == [4, 3]
    assert [merged for _, merged in merges(100, 1, 1)] == [50]


def test_the_most_similar_pair_is_joined_into_its_mean_by_size() -> None:
    x = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [0.0, 1.0], [-1.0, 0.1]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]]])  # tokens 2 and 1 are alike
    merged, size = merge(x, torch.tensor([[1.0, 2.0, 1.0, 1.0]]), keys, 1)
    torch.testing.assert_close(merged, torch.tensor([[[1.0, 0.0], [(2 * 5 + 0) / 3, (2 * 5 + 1) / 3], [-1.0, 0.1]]]))
    assert size.tolist() == [[1.0, 3.0, 1.0]]


def test_a_token_of_size_s_is_attended_to_as_s_copies_of_it_would_be() -> None:
    qkv = torch.randn(3, 1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[1.0, 3.0, 1.0, 2.0]])
    copies = qkv.repeat_interleave(sizes[0].long(), dim=3)
    first_copy = torch.tensor([0, 1, 4, 5])
    for half in (False, True):  # training in bf16 takes another way
        kind = torch.bfloat16 if half else torch.float32
        mine, theirs = attend(qkv.to(kind), sizes.log()), attend(copies.to(kind))[:, :, first_copy]
        torch.testing.assert_close(mine, theirs, rtol=2e-2 if half else 1e-5, atol=2e-2 if half else 1e-6)


def test_all_tokens_are_stood_for_and_without_merging_nothing_changes() -> None:
    model, x = blocks(), tokens()
    left, size = merging_blocks(model, x, 6)
    assert left.shape == (2, 6, 24)
    assert size.sum(1).tolist() == [12, 12]
    same, ones = merging_blocks(model, x, 12)
    torch.testing.assert_close(same, model(x))
    assert torch.equal(ones, torch.ones(2, 12))


def test_equal_tokens_merge_without_a_trace() -> None:
    """Copies of tokens are joined first, and give what the tokens alone would with their sizes: nothing is lost."""
    model, x = blocks(1), tokens(6).repeat_interleave(2, dim=1)
    left, size = merging_blocks(model, x, 6)
    assert torch.equal(size, torch.full((2, 6), 2.0))
    torch.testing.assert_close(left, model(x)[:, 1::2], rtol=1e-4, atol=1e-5)


def test_sizes_weigh_in_attention_only_where_it_is_asked_for() -> None:
    """Off for masked autoencoders, as in the authors' code; on, three copies weigh as three in later blocks."""
    model, x = blocks(2), tokens(4).repeat_interleave(torch.tensor([4, 2, 2, 2]), dim=1)
    plain, size = merging_blocks(model, x, 4)
    weighed, same = merging_blocks(model, x, 4, proportional=True)
    assert torch.equal(size, same)
    assert size.max() > 2
    assert not torch.allclose(plain, weighed, rtol=1e-3)


@pytest.mark.parametrize("head", ["mean", "attentive"])
def test_a_classifier_trains_with_it_at_the_cost_that_is_predicted(head: str) -> None:
    shape = {"img_size": 96, "num_frames": 8, "num_classes": 5, "strategy": "tome", "keep_ratio": 0.4, "head": head}
    model = create_classifier("everest_tiny_patch16_224", {**shape, "drop_path_rate": 0.1}).train()  # type: ignore[arg-type]
    clip = torch.randn(2, 3, 8, 96, 96)
    model(clip).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    flops = counted(lambda: model(clip))
    cost = multiply_adds("tiny", "finetune", strategy="tome", keep_ratio=0.4, frames=8, resolution=96, num_classes=5,
                         head=head)  # fmt: skip
    assert 2 * cost.multiply_adds == pytest.approx(flops, rel=5e-3)
    model.set_grad_checkpointing(True)
    model.eval()
    again = model(clip)
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(again, model(clip))
