"""Costs from the configuration against torch's counter on the real forward, and against the paper's table."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from flops import counted

import models
from models.cost import Cost, flops_table, multiply_adds
from models.registry import SIZES
from models.strategies import STRATEGIES


def counted_of(name: str, frames: int, resolution: int, **kwargs: object) -> float:
    """Multiply-adds that torch counts in a real forward on the meta device (no memory, no arithmetic)."""
    with torch.device("meta"):
        model = timm.create_model(name, img_size=resolution, num_frames=frames, **kwargs).eval()
        clip = torch.empty(1, 3, frames, resolution, resolution)
    return counted(lambda: model(clip))


@pytest.mark.parametrize("row", flops_table(), ids=lambda row: "-".join((row["size"], row["stage"], row["strategy"])))
def test_every_row_of_the_table_is_what_torch_counts(row: dict[str, Any]) -> None:
    pretrain = row["stage"] == "pretrain"
    arguments = {"strategy": row["strategy"], "keep_ratio": row["keep_ratio"]}
    arguments |= {"visible_ratio": row["visible_ratio"], "decoder_depth": 4} if pretrain else {"num_classes": 400}
    real = counted_of(models.architecture(row["size"], pretrain), 16, 224, **arguments)
    assert row["gmacs_per_clip"] * 1e9 == pytest.approx(real, rel=5e-3)


@pytest.mark.parametrize("strategy", ["everest", "none"])
@pytest.mark.parametrize(
    ("frames", "resolution", "head"), [(16, 224, "mean"), (24, 160, "attentive"), (16, 112, "places")]
)
def test_classification_cost_is_what_torch_counts(strategy: str, frames: int, resolution: int, head: str) -> None:
    real = counted_of("everest_small_patch16_224", frames, resolution, strategy=strategy, keep_ratio=0.6, head=head)
    ours = multiply_adds(
        "small",
        "finetune",
        strategy=strategy,
        keep_ratio=0.6,
        frames=frames,
        resolution=resolution,
        head=head,
    )
    assert ours.multiply_adds == pytest.approx(real, rel=5e-3)


@pytest.mark.parametrize(
    ("size", "all_tokens", "kept", "tube", "everest"),
    [
        ("small", 56.9, 29.0, 11.5, 5.7),
        ("base", 180.3, 98.0, 35.4, 19.8),
        ("large", 596.8, 329.8, 83.0, 57.9),
    ],
)
def test_the_papers_table_is_reproduced_within_one_percent(
    size: str, all_tokens: float, kept: float, tube: float, everest: float
) -> None:
    def giga(cost: Cost) -> float:
        return cost.multiply_adds / 1e9

    assert giga(multiply_adds(size, "finetune", strategy="none")) == pytest.approx(all_tokens, rel=0.01)
    assert giga(multiply_adds(size, "finetune", keep_ratio=0.6)) == pytest.approx(kept, rel=0.01)
    assert giga(multiply_adds(size, "pretrain", strategy="tube")) == pytest.approx(tube, rel=0.01)
    assert giga(multiply_adds(size, "pretrain")) == pytest.approx(everest, rel=0.01)


def test_the_papers_savings_for_base_are_reproduced() -> None:
    def macs(stage: str, **kwargs: object) -> int:
        return multiply_adds("base", stage, **kwargs).multiply_adds

    finetune = macs("finetune", keep_ratio=0.6) / macs("finetune", strategy="none") - 1
    against_90 = macs("pretrain") / macs("pretrain", strategy="tube") - 1
    against_75 = macs("pretrain") / macs("pretrain", strategy="tube", visible_ratio=0.25) - 1
    assert [finetune, against_90, against_75] == pytest.approx([-0.457, -0.442, -0.655], abs=0.005)


def test_parameter_counts_are_the_papers() -> None:
    counts = []
    for size in ("small", "base", "large"):
        with torch.device("meta"):
            model = timm.create_model(models.architecture(size, True))
        counts.append(round(sum(p.numel() for p in model.parameters()) / 1e6, 1))
    assert counts == [24.0, 94.2, 317.8]


def test_the_table_has_every_size_stage_and_strategy_once() -> None:
    rows = flops_table()
    keys = {(row["size"], row["stage"], row["strategy"]) for row in rows}
    fixed = [strategy for strategy in STRATEGIES.values() if strategy.planned_as is None]
    stages = sum((s.ratios is not None) + (s.finetune_ratio is not None) for s in fixed)
    assert len(rows) == len(keys) == len(SIZES) * stages
    everest = next(r for r in rows if (r["size"], r["stage"], r["strategy"]) == ("base", "pretrain", "everest"))
    assert (everest["encoder_tokens"], everest["decoder_tokens"]) == (156, 470)


def test_an_unknown_size_or_stage_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="size = 'giant', expected one of tiny, mini, small"):
        multiply_adds("giant", "pretrain")
    with pytest.raises(ValueError, match="expected one of everest, none.* in fine-tuning"):
        multiply_adds("base", "finetune", strategy="tube")
