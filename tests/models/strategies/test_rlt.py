"""Run-length tokens: exactly those that equal the one before are dropped, and EVEREST after it keeps fewer still."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flops import counted

from models.cost import cost_of_counts
from models.registry import create_autoencoder, create_classifier
from models.strategies.rlt import THRESHOLD
from models.unequal.adaptive import run_lengths
from models.weights import load_model, save_model

SHAPE = {"img_size": 64, "num_frames": 8, "num_classes": 5, "init_scale": 1.0}


def clips() -> torch.Tensor:
    """A clip of which one place moves in slots 2 and 3, and one that is all noise."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(1, 3, 1, 64, 64, generator=generator).repeat(1, 1, 8, 1, 1)
    still[:, :, 4:6, 16:32, :16] += 1.0  # place 4 in slot 2
    return torch.cat([still, torch.randn(1, 3, 8, 64, 64, generator=generator)])


def classifier(strategy: str, **more: object):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return create_classifier("everest_tiny_patch16_224", {**SHAPE, "strategy": strategy, **more}).eval()  # type: ignore[arg-type]


def kept_by(strategy: str, **more: object) -> list[list[int]]:
    model = classifier(strategy, **more)
    tubelets, grid = model.cut(clips())
    index, rows, _ = model.select(model.patch_embed(tubelets), grid, tubelets)
    return [sorted(row[real].tolist()) for row, real in zip(index, rows.valid(), strict=True)]


def test_exactly_the_tokens_that_equal_the_one_before_are_dropped() -> None:
    still, busy = kept_by("rlt")
    assert still == [*range(16), 2 * 16 + 4, 3 * 16 + 4], "the first slot, a change and the change back"
    assert busy == list(range(64))


def test_a_difference_up_to_the_threshold_counts_as_equal() -> None:
    model = classifier("rlt")
    for change, kept in ((0.99 * THRESHOLD, 16), (1.01 * THRESHOLD, 32)):
        clip = torch.zeros(1, 3, 8, 64, 64)
        clip[:, :, 4:] = change
        tubelets, grid = model.cut(clip)
        assert len(model.select(model.patch_embed(tubelets), grid, tubelets)[0][0]) == kept


def test_a_run_lasts_until_the_next_change_at_its_place() -> None:
    begins = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=torch.bool).flatten()[None]
    lengths = run_lengths(begins, 4).unflatten(1, (4, 2))[0]
    assert lengths[begins.view(4, 2)].tolist() == [2, 1, 3, 2]


def test_the_first_token_of_a_run_is_told_its_length() -> None:
    model = classifier("rlt")
    plain = model(clips())
    torch.nn.init.normal_(model.lengths)
    assert not torch.allclose(model(clips()), plain)
    model.packed, packed = False, model(clips())
    torch.testing.assert_close(model(clips()), packed, rtol=1e-4, atol=1e-5)
    model.train()(clips()).square().mean().backward()
    assert model.lengths.grad.abs().sum(1).gt(0).tolist() == [True, True, False, True], "lengths 1, 2 and 4 occur"


def test_weights_that_were_trained_without_it_can_be_tested_with_it_and_the_other_way_round(tmp_path: Path) -> None:
    for trained in ("none", "rlt"):
        folder = tmp_path / trained
        save_model(classifier(trained), folder, _description(trained))
        for tested in ("none", "everest", "rlt", "rlt_everest", "tome"):
            logits = load_model(folder, strategy=tested, keep_ratio=0.6).eval()(clips())
            assert torch.isfinite(logits).all()
            if tested == "none":
                torch.testing.assert_close(logits, load_model(folder, strategy="none").eval()(clips()))


def _description(strategy: str) -> dict[str, object]:
    arguments = {**SHAPE, "strategy": strategy, "keep_ratio": 0.6}
    return {"architecture": "everest_tiny_patch16_224", "kwargs": arguments, "stage": "finetune"}


def test_everest_after_it_keeps_the_most_moving_of_what_is_left() -> None:
    still, busy = kept_by("rlt_everest", keep_ratio=0.5)
    assert set(still) <= {*range(16), 2 * 16 + 4, 3 * 16 + 4}
    assert {2 * 16 + 4, 3 * 16 + 4} <= set(still)
    assert len(busy) == 32


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_its_cost_is_that_of_the_tokens_that_it_keeps(stage: str) -> None:
    torch.manual_seed(0)
    if stage == "pretrain":
        shape = {"img_size": 64, "num_frames": 8, "keep_ratio": 0.5, "visible_ratio": 0.2, "strategy": "rlt_everest"}
        model = create_autoencoder("everest_pretrain_tiny_patch16_224", shape)  # type: ignore[arg-type]
        model(clips()).backward()
        model.seen.clear()
    else:
        model = classifier("rlt")
    flops = counted(lambda: model(clips()))
    cost = cost_of_counts("tiny", model.seen, frames=8, resolution=64, num_classes=5)
    assert len(model.seen) == 2, "clips of unequal counts"
    assert 2 * cost.multiply_adds == pytest.approx(flops, rel=5e-3)


def test_clips_that_are_classified_at_the_same_time_do_not_share_their_lengths() -> None:
    model = classifier("rlt")
    with torch.no_grad():
        model.lengths.normal_(generator=torch.Generator().manual_seed(1))
    still, busy = clips().split(1)
    with torch.inference_mode():
        alone = model(still)
        select = model.select

        def interrupted(*given: object) -> object:
            selected = select(*given)
            model.select = select
            model(busy)  # as another thread would in between
            return selected

        model.select = interrupted
        assert torch.equal(model(still), alone)
